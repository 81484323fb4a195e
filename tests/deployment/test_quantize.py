"""int8 and fp16 students: what they compute, in what, from which images; and the gate, both ways."""

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from benchmarks import quantized
from pipeline.data import card as cards
from pipeline.data.arrays import Split
from pipeline.deployment import export, gate, integer_graph, onnx_file, quantize, search, trial
from pipeline.deployment.judge import Judge, Judged
from pipeline.evaluation import logits_file
from pipeline.evaluation.comparison import Bootstrap
from pipeline.models.base import Classifier, build, spec_of
from pipeline.settings import params
from pipeline.settings.deployment import Quantize
from pipeline.system.errors import ParamsError, PupilError
from serve.model.classifier import OnnxClassifier
from stages.quantize import quantize as stage
from tests import tiny, tiny_onnx
from tests.models.test_checkpoint import header

pytestmark = pytest.mark.slow

SPLIT = tiny.split(64)
SIZES = {"num_parameters": 1, "macs": 1}
"""Which cards get when a network is exported."""
CULPRITS = ("model.blocks.0.conv1.weight", "model.blocks.0.conv2.weight")


def network(arch: str) -> Classifier:
    return uneven(tiny.network(arch), next(tiny.feed(64).eval_batches(64))[0], 30)


def uneven(model: Classifier, images: torch.Tensor, rounds: int) -> Classifier:
    """With the BN statistics of real activations, and gains and offsets that differ from channel to channel."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
    for _ in range(rounds):
        model.train()(images)
    return model.eval()


def with_outlier(arch: str) -> Classifier:
    """The same answers, with one channel between two convolutions a thousand times as large as the others."""
    model = network(arch)
    block = model.blocks[0]  # type: ignore[index]
    with torch.no_grad():
        norm = block.bn2 if arch.startswith("wrn") else block.bn1
        norm.weight[0] *= 1e4
        norm.bias[0] = 1e4
        block.conv2.weight[:, 0] *= 1e-4
    return model


def exported(model: Classifier, arch: str, path: Path) -> onnx.ModelProto:
    card = export.make_card("student", header(arch), {"top1": 12.5})
    export.write_onnx(export.Servable(model, tiny.NORMALIZATION), card, path, 20)
    return onnx_file.read(path)[0]


@pytest.fixture(scope="module", params=["resnet8", "wrn_10_1"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    return exported(network(request.param), request.param, tmp_path_factory.mktemp("onnx") / "student.onnx")


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    return exported(with_outlier("wrn_10_1"), "wrn_10_1", tmp_path_factory.mktemp("onnx") / "student.onnx")


def quantizer(model: onnx.ModelProto, way: str = "minmax", **arguments: Any) -> quantize.Quantizer:
    return quantize.Quantizer(model, [SPLIT.images[:32], SPLIT.images[32:]], way, **arguments)


def logits(model: onnx.ModelProto) -> torch.Tensor:
    return gate.predict(model, SPLIT, 20)


def sqnr(model: onnx.ModelProto, other: onnx.ModelProto) -> float:
    value = gate.sqnr_db(logits(model), logits(other))
    assert value is not None
    return value


def test_the_rewritten_network_computes_the_same_by_operators_that_have_integer_kernels(model: onnx.ModelProto) -> None:
    rewritten = integer_graph.rewritten(model)
    torch.testing.assert_close(logits(rewritten), logits(model), rtol=1e-4, atol=1e-4)
    assert integer_graph.takes_pixels(rewritten)
    assert not {"BatchNormalization", "ReduceMean", "Mul"} & {node.op_type for node in rewritten.graph.node}
    assert {"Mul", "ReduceMean"} <= {node.op_type for node in model.graph.node}


def test_a_network_that_fits_no_pattern_stays_as_it_is() -> None:
    model = tiny_onnx.build()
    assert list(integer_graph.rewritten(model).graph.node) == list(model.graph.node)


def test_the_int8_network_runs_in_integers_from_the_pixels_to_the_logits(
    model: onnx.ModelProto, tmp_path: Path
) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # it warns that such a file is for this machine alone
    int8 = quantizer(model).model()
    onnxruntime.InferenceSession(int8.SerializeToString(), options, providers=["CPUExecutionProvider"])
    came = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert came["QLinearConv"] == sum(n.op_type == "Conv" for n in integer_graph.rewritten(model).graph.node)
    assert not {"Conv", "Add", "Mul", "Cast", "QuantizeLinear", "BatchNormalization", "Relu", "Gemm"} & came.keys()
    assert sqnr(model, int8) > 20


def test_each_way_to_read_ranges_is_another_one(model: onnx.ModelProto) -> None:
    made = [quantizer(model, way).model() for way in quantize.WAYS]
    assert min(sqnr(model, it) for it in made) > 15
    # These images are too few for the last 0.001 % of values to be another one.
    assert len({it.SerializeToString() for it in made}) >= len(made) - 1


def test_the_same_images_give_the_same_bytes(model: onnx.ModelProto, tmp_path: Path) -> None:
    for name in ("one", "two"):
        onnx_file.write(quantizer(model).model(), {}, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_weights_fit_seven_bits_where_that_is_asked_for(model: onnx.ModelProto) -> None:
    def largest(**settings: Any) -> int:
        made = quantizer(model, **settings).model()
        weights = [t for t in made.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4]
        found = max(int(np.abs(numpy_helper.to_array(tensor).astype(int)).max()) for tensor in weights)
        assert quantize.weight_bits(made) == (7 if found <= 64 else 8)
        return found

    assert (largest(reduce_range=False), largest(reduce_range=True)) == (127, 64)
    assert largest() == (64 if quantize.overflows() else 127)


def test_the_signed_network_is_symmetric_throughout(model: onnx.ModelProto) -> None:
    signed = quantizer(model, signed=True).model()
    steps = [node for node in signed.graph.node if node.op_type == "QuantizeLinear"]
    zeros = {tensor.name: numpy_helper.to_array(tensor) for tensor in signed.graph.initializer}
    assert steps
    for node in steps:
        assert zeros[node.input[2]].dtype == np.int8
        assert not zeros[node.input[2]].any()
    assert sqnr(model, signed) > 20


def test_a_dead_channel_does_no_harm(tmp_path: Path) -> None:
    network_ = network("wrn_10_1")
    with torch.no_grad():
        network_.blocks[1].bn1.weight[3] = 1e-12  # type: ignore[index]
        network_.blocks[1].bn1.bias[3] = 0.4  # type: ignore[index]
    model = exported(network_, "wrn_10_1", tmp_path / "student.onnx")
    assert sqnr(model, quantizer(model).model()) > 20


def test_an_excluded_node_computes_in_float(model: onnx.ModelProto) -> None:
    for at in (0, 2):
        name = [node.name for node in model.graph.node if node.op_type == "Conv"][at]
        made = quantizer(model).model(in_float32=[name])
        (node,) = (node for node in made.graph.node if node.name == name)
        weights = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
        assert weights[node.input[1]] == onnx.TensorProto.FLOAT
        assert sqnr(model, made) > 20


@pytest.mark.parametrize("way", ["minmax", "percentile"])
def test_a_network_that_is_not_finite_is_refused(model: onnx.ModelProto, way: str) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    bias = next(t for t in broken.graph.initializer if t.name.endswith("conv1.bias"))
    values = np.full(bias.dims, np.nan, np.float32)
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    with pytest.raises(PupilError, match=r"of student.onnx is not finite for some calibration images"):
        quantizer(broken, way)


def test_half_precision_agrees_and_its_probabilities_sum_to_one(model: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "student.fp16.onnx"
    card = export.make_card("student_fp16", header("resnet8"), {}) | SIZES | {"precision": "fp16"}
    onnx_file.write(quantize.half(model), card, path)
    probabilities, came = OnnxClassifier(path, device="cpu").outputs(SPLIT.images)
    expected = logits(model)
    np.testing.assert_allclose(came, expected, atol=0.02)
    np.testing.assert_allclose(probabilities, torch.from_numpy(came).softmax(1), atol=1e-6)
    halves = [t for t in quantize.half(model).graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    assert len(halves) >= 10


def never() -> tuple[torch.Tensor, torch.Tensor]:
    raise AssertionError("validation could tell")


def test_logits_that_are_no_numbers_are_refused() -> None:
    float32 = torch.randn(4, 3)
    broken = float32.clone()
    broken[2, 1] = torch.inf
    verdict = gate.decide(float32, broken, float32.argmax(1), 100, never)
    assert (verdict.accepted, verdict.drop_points) == (False, None)
    assert verdict.reason == "refused: its logits are not finite for 1 of 4 validation images"


def answers(images: int, lost: int, gained: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of float32 and of another network, and labels: so many images turn wrong, so many right."""
    labels = torch.arange(images) % 5
    float32, other = torch.eye(5)[labels], torch.eye(5)[labels]
    other[:lost] = -other[:lost]
    float32[-gained or images :] = -float32[-gained or images :]
    return float32, other, labels


@pytest.mark.parametrize(
    ("images", "lost", "gained", "max_drop", "accepted"),
    [
        (2000, 2, 1, 0.5, True),
        (10_000, 50, 0, 0.5, True),  # at the very limit
        (10_000, 51, 0, 0.5, False),
        (101, 9, 0, 0.5, False),
        (101, 0, 0, 3.0, True),
        (101, 0, 5, 0.5, True),
    ],
)
def test_validation_decides_where_it_can_tell(
    images: int, lost: int, gained: int, max_drop: float, accepted: bool
) -> None:
    verdict = gate.decide(*answers(images, lost, gained), max_drop, never)
    assert (verdict.accepted, verdict.validation_tells) == (accepted, True)
    assert verdict.drop_points == pytest.approx(100 * (lost - gained) / images)
    assert f"{lost} of {images} images turned wrong and {gained} right" in verdict.reason
    if not accepted:
        assert verdict.reason.endswith(f"{100 * lost / images - max_drop:.2f} more than deploy.max_drop 0.50")
    if gained > lost:
        assert "a gain of 4.95 points" in verdict.reason


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (2, 1), (3, 3)])
def test_one_image_of_101_decides_nothing(lost: int, gained: int) -> None:
    for changed, accepted in ((0, True), (1, True), (30, False)):
        float32 = answers(900, 0, 0)[0]
        train = float32, torch.cat([float32[:changed].roll(1, 1), float32[changed:]])
        verdict = gate.decide(*answers(101, lost, gained), 0.5, lambda train=train: train)
        assert (verdict.accepted, verdict.validation_tells) == (accepted, False)
        assert verdict.drop_points == pytest.approx(100 * (lost - gained) / 101)
        assert (
            "these 101 images are too few and cannot tell whether that is within deploy.max_drop 0.50" in verdict.reason
        )
        assert f"of 900 images of train {100 - changed / 9:.2f} % get the same answer" in verdict.reason


def test_the_interval_of_paired_answers_holds_the_true_drop() -> None:
    generator = np.random.default_rng(0)
    for images, lost, gained in ((101, 0.02, 0.01), (500, 0.01, 0.01), (101, 0.1, 0.02)):
        drawn = generator.multinomial(images, [lost, gained, 1 - lost - gained], 4000)
        inside = [
            low <= 100 * (lost - gained) <= high
            for low, high in (gate.paired_interval(a, b, images) for a, b, _ in drawn)
        ]
        assert np.mean(inside) > 0.94


def test_logits_on_train_that_are_no_numbers_are_refused() -> None:
    broken = torch.full((3, 5), torch.nan)
    verdict = gate.decide(*answers(101, 0, 0), 0.5, lambda: (torch.eye(5)[:3], broken))
    assert not verdict.accepted
    assert verdict.reason.endswith("its logits are not finite for 3 of 3 images of train")


def test_images_seen_in_training_can_tell_of_a_loss_alone() -> None:
    train = answers(900, 0, 0)[:2]
    verdict = gate.decide(*answers(5000, 0, 0), 0.5, lambda: train, seen=True)
    assert (verdict.accepted, verdict.validation_tells) == (True, False)
    assert "these 5000 images were trained on and cannot tell" in verdict.reason
    verdict = gate.decide(*answers(5000, 90, 0), 0.5, never, seen=True)
    assert not verdict.accepted
    assert verdict.reason.startswith("refused: validation (images seen in training) top-1 100.00 -> 98.20 %")
    float32, other, labels = answers(5000, 0, 0)
    # Two answers in ten change, at a cost that float32's probabilities say.
    swapped = float32[:10].clone()
    swapped[[0, 1]] = float32[[1, 0]]
    gap = 100 * 0.2 * (math.e - 1) / (math.e + 4)
    verdict = gate.decide(float32, other, labels, 0.5, lambda: (float32[:10], swapped), seen=True)
    assert not verdict.accepted
    assert f"80.00 % get the same answer, and the others cost {gap:.2f} [" in verdict.reason


def test_sqnr_of_known_noise() -> None:
    signal = torch.full((2, 5), 2.0)
    assert gate.sqnr_db(signal, signal + 0.2) == pytest.approx(20)
    assert gate.sqnr_db(signal, signal) is None


def test_the_nodes_around_the_damage_are_found(fragile: onnx.ModelProto) -> None:
    made = quantizer(fragile)
    nodes = gate.damage(made, made.nodes.items(), logits(fragile), SPLIT, 20)
    assert {node["of"].removesuffix("_bias") for node in nodes[:2]} == set(CULPRITS)
    assert nodes[1]["sqnr_db"] + 6 < nodes[2]["sqnr_db"]


def prepared(
    folder: Path, labels: np.ndarray, seeds: tuple[int, int, int] = (0, 1, 2), image_px: int = tiny.IMAGE_PX
) -> Path:
    """A prepared data set of three splits of 64 images, and float32's own answers as labels of validation and test."""
    counts = dict.fromkeys(("train", "val", "test"), 64)
    card = tiny.card(image_px=image_px).model_copy(update={"counts": counts})
    for name, seed in zip(card.counts, seeds, strict=True):
        (folder / name).mkdir(parents=True)
        np.save(folder / name / "images.npy", tiny.split(64, image_px, seed=seed).images)
        np.save(folder / name / "labels.npy", labels)
    (folder / "card.json").write_text(card.model_dump_json())
    return folder


def run(folder: Path, source: onnx.ModelProto, settings: str = "", seeds: tuple[int, int, int] = (0, 1, 2)) -> Any:
    """The stage in a folder of its own; its record."""
    folder.mkdir()
    answers = gate.predict(source, tiny.split(64, seed=seeds[1]), 64).argmax(1).numpy()
    data = prepared(folder / "data", answers, seeds)
    card = export.make_card("student", header("wrn_10_1"), {"top1": 1.0}) | SIZES
    onnx_file.write(source, card, folder / "student.onnx")
    (folder / "params.yaml").write_text(settings or "{}")
    # The teacher is right on every other image.
    taught = np.eye(tiny.CLASSES, dtype=np.float32)[(answers + np.arange(64) % 2) % tiny.CLASSES]
    logits_file.write(folder / "logits.npy", taught)
    out, record = folder / "quantized", folder / "quantization.json"
    stage(folder / "params.yaml", folder / "student.onnx", folder / "logits.npy", data, out, record)
    return json.loads(record.read_text(encoding="utf-8"))


def test_an_accepted_student_is_deployed(model: onnx.ModelProto, tmp_path: Path) -> None:
    record = run(tmp_path / "run", model, "deploy: {max_drop: 20}")
    int8 = record["students"]["int8"]
    assert int8["accepted"]
    assert record["students"]["float32"]["val"]["top1"] == 100
    assert int8["drop_points"] == pytest.approx(100 - int8["val"]["top1"])
    assert int8["val"]["float32_agreement"] >= 80
    path = tmp_path / "run" / int8["file"]
    assert (path.stat().st_size, int8["size_bytes"] < 0.5 * record["students"]["float32"]["size_bytes"]) == (
        int8["size_bytes"],
        True,
    )
    card = OnnxClassifier(path, device="cpu").card
    assert (card.name, card.precision) == ("student", "int8")
    assert card.metrics["top1"] == int8["test"]["top1"]
    against = int8["against_teacher"]
    assert against["difference"] == pytest.approx(int8["test"]["top1"] - 50)
    assert against["interval"][0] < against["difference"] < against["interval"][1]
    assert sorted(p.name for p in path.parent.iterdir()) == ["student.fp16.onnx", "student.int8.onnx"]


def test_a_refused_student_is_not_and_says_which_nodes_did_it(
    fragile: onnx.ModelProto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run(tmp_path / "refused", fragile, "quantize: {method: minmax, tensorrt: true}")
    int8, signed = record["students"]["int8"], record["students"]["int8_signed"]
    assert (int8["accepted"], signed["accepted"]) == (False, False)
    assert int8["drop_points"] > 20
    assert int8["file"] == "quantized/student.int8.refused.onnx"
    assert not (tmp_path / "refused/quantized/student.int8.onnx").exists()
    said = capsys.readouterr().out
    assert f"{int8['drop_points'] - 0.5:.2f} more than deploy.max_drop 0.50\n" in said
    assert all(f"({weight}" in said[said.index("most damaging nodes") :] for weight in CULPRITS)
    assert [trial["ranges"] for trial in int8["tried"]] == ["minmax"]


def test_the_search_leaves_in_float32_what_does_the_damage(
    fragile: onnx.ModelProto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    int8 = run(tmp_path / "mended", fragile, "deploy: {max_drop: 20}")["students"]["int8"]
    assert int8["accepted"]
    assert [trial["ranges"] for trial in int8["tried"][: len(quantize.WAYS)]] == list(quantize.WAYS)
    first, last = int8["tried"][0], int8["tried"][-1]
    assert 1 <= last["in_float32"] <= 4
    assert last["agreement"] > first["agreement"] + 20
    assert (
        f"{last['ranges']}, {last['in_float32']} nodes in float32: {last['agreement']:.2f} %" in capsys.readouterr().out
    )
    made = onnx_file.read(tmp_path / "mended" / int8["file"])[0]
    floats = {tensor.name for tensor in made.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    assert floats & {name for node in made.graph.node if node.op_type == "Conv" for name in node.input[1:2]}


def test_the_best_ranges_are_taken_and_the_search_ends_in_time(model: onnx.ModelProto, tmp_path: Path) -> None:
    answers = gate.predict(model, tiny.split(64, seed=1), 64).argmax(1).numpy()
    card = cards.load(prepared(tmp_path / "data", answers))

    def searched(clock: Callable[[], float]) -> tuple[search.Search, Judged]:
        judge = Judge(model, tmp_path / "data", card, card.image_px, 50, answers, Bootstrap(100, 0))
        one = search.Search(judge, clock)
        return one, one.run(model, [SPLIT.images], Quantize())

    whole, judged = searched(lambda: 0.0)
    best = max(whole.trials, key=search.Trial.rank)
    assert ([it.ranges for it in whole.trials], whole.way) == (list(quantize.WAYS), best.ranges)
    assert judged.network is not None
    assert (
        judged.network.SerializeToString()
        == quantize.Quantizer(model, [SPLIT.images], best.ranges).model().SerializeToString()
    )
    hours = itertools.count(step=0.4 * search.SECONDS)
    cut, judged = searched(lambda: next(hours))
    assert (len(cut.trials), judged.verdict.accepted) == (3, True)


def test_ranking_nodes_leaves_time_to_mend(fragile: onnx.ModelProto, tmp_path: Path) -> None:
    answers = gate.predict(fragile, tiny.split(64, seed=1), 64).argmax(1).numpy()
    card = cards.load(prepared(tmp_path / "data", answers))
    judge = Judge(fragile, tmp_path / "data", card, card.image_px, 0, answers, Bootstrap(100, 0))
    hours = itertools.count(step=0.4 * search.SECONDS)
    cut = search.Search(judge, lambda: next(hours))
    cut.run(fragile, [SPLIT.images], Quantize())
    assert len(cut.nodes) == 3
    assert any(trial.in_float32 for trial in cut.trials)


def test_ranges_chosen_on_validation_are_not_accepted_by_its_images_in_train(
    model: onnx.ModelProto, tmp_path: Path
) -> None:
    answers = gate.predict(model, tiny.split(64, seed=1), 64).argmax(1).numpy()
    card = cards.load(prepared(tmp_path / "data", answers))
    for name in ("images", "labels"):  # as prepare joins them
        both = [np.load(tmp_path / f"data/{split}/{name}.npy") for split in ("train", "val")]
        np.save(tmp_path / f"data/train/{name}.npy", np.concatenate(both))
    seen = card.model_copy(update={"train_includes_val": True, "counts": card.counts | {"train": 128}})
    judge = Judge(model, tmp_path / "data", seen, card.image_px, 50, answers, Bootstrap(100, 0))
    assert "of 64 images of train 100.00 % get the same answer" in judge.judge(model).verdict.reason


def test_a_depthwise_network_keeps_at_least_as_many_answers_as_by_plain_ranges(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network_ = build(spec_of("timm/mobilenetv4_conv_small_050", tiny.CLASSES, 32))
    images = tiny.split(64, image_px=32)
    uneven(network_, tiny.normalized(torch.from_numpy(images.images)), 10)
    float32, _ = onnx_file.read(trial.write(network_, 32, 20, tmp_path / "float32.onnx"))
    answers = gate.predict(float32, tiny.split(64, image_px=32, seed=1), 64).argmax(1).numpy()
    card = cards.load(prepared(tmp_path / "data", answers, image_px=32))
    judge = Judge(float32, tmp_path / "data", card, 32, 3, answers, Bootstrap(100, 0))
    found = search.Search(judge)
    judged = found.run(float32, [images.images], Quantize(reduce_range=True))  # on every processor alike
    assert judged.verdict.accepted
    plain, *others = found.trials
    assert len(others) == len(quantize.WAYS) - 1
    assert max(it.rank() for it in others) > plain.rank()


@pytest.mark.parametrize("broken", ["make", "run"])
def test_a_file_that_cannot_be_made_or_run_is_refused_and_stops_nothing(
    broken: str, model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(source: onnx.ModelProto) -> onnx.ModelProto:
        if broken == "make":
            raise IndexError("no such tensor")
        made = onnx.ModelProto()
        made.CopyFrom(source)
        made.graph.node.append(made.graph.node[0])  # its result is defined twice
        return made

    monkeypatch.setattr(quantize, "half", half)
    students = run(tmp_path / "run", model, "deploy: {max_drop: 20}")["students"]
    assert students["int8"]["accepted"]
    fp16 = students["fp16"]
    assert (fp16["accepted"], fp16["size_bytes"], fp16["test"]) == (False, None, None)
    why = "IndexError: no such tensor" if broken == "make" else "two nodes with same node name"
    assert fp16["reason"].startswith("refused: it could not be made or run (")
    assert why in fp16["reason"]
    assert [path.name for path in (tmp_path / "run/quantized").iterdir()] == ["student.int8.onnx"]


def test_int8_that_cannot_be_made_is_not_called_distilled(
    model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> Any:
        raise IndexError("no such tensor")

    monkeypatch.setattr(search, "Quantizer", broken)
    int8 = run(tmp_path / "run", model)["students"]["int8"]
    assert (int8["accepted"], int8["how"], int8["tried"]) == (False, "post-training", [])


def test_half_precision_of_a_network_with_two_readers_of_one_cast_can_be_run(tmp_path: Path) -> None:
    float32 = onnx_file.read(trial.write(build(spec_of("timm/edgenext_xx_small", 3, 64)), 64, 20, tmp_path / "x.onnx"))[
        0
    ]
    images = tiny.split(2, image_px=64)
    expected, came = (gate.predict(it, images, 2) for it in (float32, quantize.half(float32)))
    torch.testing.assert_close(came, expected, rtol=0.02, atol=0.02)


def test_only_train_calibrates_and_only_validation_decides(fragile: onnx.ModelProto, tmp_path: Path) -> None:
    def made(name: str, seeds: tuple[int, int, int]) -> tuple[bytes, Any]:
        record = run(tmp_path / name, fragile, "{deploy: {max_drop: 100}, quantize: {method: minmax}}", seeds)
        graph = onnx_file.read(tmp_path / name / "quantized/student.int8.onnx")[0].SerializeToString()
        return graph, record["students"]["int8"]

    (graph, first), (same, other), (different, _) = (made(str(s), s) for s in ((0, 1, 2), (0, 1, 3), (4, 1, 2)))
    assert graph == same
    assert graph != different
    assert first["reason"] == other["reason"]
    assert first["test"] != other["test"]
    assert made("validation", (0, 5, 2))[0] == graph


@pytest.mark.parametrize("spoil", ["missing", "torn", "changed"])
def test_a_student_file_that_is_not_whole_is_refused(spoil: str, model: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "student.onnx"
    onnx_file.write(model, {"name": "student"}, path)
    content = path.read_bytes()
    if spoil == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:1000] if spoil == "torn" else content.replace(b"probabilities", b"Probabilities"))
    with pytest.raises(PupilError, match=f"{path} .*dvc repro"):
        onnx_file.read(path)


def test_settings_out_of_range_are_named(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    for text, message in (
        ("quantize: {method: mean}", r"quantize\.method is 'mean': .*'auto', 'minmax', 'entropy', "),
        ("quantize: {images: 0}", r"quantize\.images is 0: .*greater than or equal to 1"),
        ("quantize: {metod: auto}", r"quantize\.metod is not a key \(did you mean 'method'\?\)"),
        ("deploy: {max_drop: -1}", r"deploy\.max_drop is -1: .*greater than or equal to 0"),
    ):
        path.write_text(text)
        with pytest.raises(ParamsError, match=message):
            params.load(path)


def test_predictions_do_not_depend_on_the_batch(model: onnx.ModelProto) -> None:
    int8 = quantizer(model).model()
    one = gate.predict(int8, Split(SPLIT.images[:5], SPLIT.labels[:5]), 1)
    torch.testing.assert_close(one, gate.predict(int8, SPLIT, 64)[:5], rtol=0, atol=0)


def test_the_benchmark_compares_networks_that_answer_alike_and_shares_out_all_of_the_time() -> None:
    result = quantized._network("resnet8", [1], 70, 1)
    assert result["sqnr_db"]["float32"] is None
    assert min(result["sqnr_db"]["int8_plain"], result["sqnr_db"]["int8"]) > 20
    (batch,) = result["batches"]
    for shares in batch["shares"].values():
        assert sum(shares.values()) == pytest.approx(1)
    # One preemption makes any of them the longest: all calls together take 26 ms.
    assert "QLinearConv" in batch["shares"]["int8"]
    assert "Conv" in batch["shares"]["float32"]
