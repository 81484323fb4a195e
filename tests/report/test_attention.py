"""Attention made visible: what AFD writes of itself after each epoch, and where networks look."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from pipeline.distillation.base import Method, find
from pipeline.distillation.blocks import thin
from pipeline.evaluation import energy_maps
from pipeline.models import checkpoint
from pipeline.report import attention
from pipeline.report.pictures import heat
from pipeline.settings.training import Train
from pipeline.system import registry
from pipeline.system.errors import PupilError
from pipeline.system.files import write_json
from pipeline.training import engine
from pipeline.training.resume import Resume
from stages.energy_maps import energy_maps as stage
from tests import tiny
from tests.training.test_engine import AUGMENT, SETTINGS, assert_same, fit, weights

OBSERVED = [name for name in registry.names("pipeline.distillation") if "observe" in vars(find(name).Method)]
"""Methods that show something of themselves."""


def by_hand(method: Method, images: torch.Tensor) -> torch.Tensor:
    """The mean attention (T, S), image by image and pair by pair from the formula in afd.py, in float64."""
    m = method.attention.double()
    with torch.no_grad():
        taps_s, taps_t = (net.double().features(images.double()).blocks for net in (method.student, method.teacher))
    h_s, h_t = ([tap.act.mean((2, 3)) for tap in taps] for taps in (taps_s, taps_t))

    def embedded(embeddings: Any, pooled: list[torch.Tensor]) -> torch.Tensor:
        rows = torch.cat([x @ net.weight.T + net.bias for x, net in zip(pooled, embeddings.linears, strict=True)], 1)
        n = embeddings.norm
        rows = (rows - n.running_mean) / (n.running_var + n.eps).sqrt() * n.weight + n.bias
        return rows.view(len(images), len(pooled), -1)

    queries, keys = embedded(m.queries, h_t), functional.relu(embedded(m.keys, h_s))
    b = keys @ m.products.linear.weight.T
    flat = b.flatten(0, 1)
    b = (b - flat.mean(0)) / (flat.var(0, unbiased=False) + 1e-5).sqrt() * m.products.norm.weight
    b = (b + m.products.norm.bias).view(len(images), len(h_s), len(h_t), -1)
    mean = torch.zeros(len(h_t), len(h_s), dtype=torch.float64)
    for n in range(len(images)):
        for t in range(len(h_t)):
            scores = [b[n, s, t] @ queries[n, t] + m.position_t[t] @ m.position_s[s] for s in range(len(h_s))]
            mean[t] += (torch.stack(scores) / queries.shape[2] ** 0.5).softmax(0) / len(images)
    return mean.detach()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Method, engine.Result]:
    method = tiny.method("afd")
    return method, fit(method, tmp_path_factory.mktemp("trained") / "state")


def test_afd_writes_its_mean_attention_after_every_epoch(trained: tuple[Method, engine.Result]) -> None:
    method, result = trained
    for record in result.history:
        seen = record["attention"]
        assert seen["rows"] == ["1.1", "1.2", "2.1", "2.2", "3.1", "3.2"]
        assert seen["columns"] == ["1.1", "2.1", "3.1"]
        assert seen["images"] == 16
        np.testing.assert_allclose(np.sum(seen["weights"], 1), 1, atol=1e-5)
    drawn = torch.randperm(32, generator=torch.Generator().manual_seed(0))[:16]
    images = tiny.normalized(torch.from_numpy(tiny.split(32, seed=1).images[drawn.numpy()]))
    last = torch.tensor(result.history[-1]["attention"]["weights"], dtype=torch.float64)
    torch.testing.assert_close(last, by_hand(method, images), rtol=1e-4, atol=1e-5)
    assert (last - 1 / 3).abs().max() > 0.01, "a uniform attention would hide a wrong order"


def test_afd_shows_something_of_itself() -> None:
    assert "afd" in OBSERVED


@pytest.mark.parametrize("name", OBSERVED)
@pytest.mark.parametrize("recipe", [{}, {"ema_decay": 0.7, "select": "best"}])
def test_training_has_the_same_bits_whether_it_is_observed_or_not(
    name: str, recipe: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Train.model_validate(SETTINGS.model_dump() | recipe)
    seen, unseen = tiny.method(name), tiny.method(name)
    torch.manual_seed(2)
    expected = fit(seen, tmp_path / "seen", settings)
    drawn = torch.rand(1)
    monkeypatch.delattr(type(unseen), "observe")
    torch.manual_seed(2)
    came = fit(unseen, tmp_path / "unseen", settings)
    assert torch.equal(torch.rand(1), drawn)
    assert_same(weights(seen), weights(unseen))
    assert all(record.keys() > other.keys() for record, other in zip(expected.history, came.history, strict=True))
    assert [record["val"] for record in came.history] == [record["val"] for record in expected.history]


def test_a_large_validation_batch_is_looked_at_in_parts_of_the_batch_size(tmp_path: Path) -> None:
    method = tiny.method("afd")
    sizes: list[int] = []
    features = method.student.features

    def noting(images: torch.Tensor) -> Any:
        if not method.training:
            sizes.append(len(images))
        return features(images)

    method.student.features = noting  # type: ignore[method-assign]
    settings = SETTINGS.model_copy(update={"epochs": 1, "batch_size": 6, "drop_last": True})
    engine.fit(method, tiny.feed(), tiny.feed(32), settings, AUGMENT, 0, Resume(tmp_path / "s", "k"), lambda r: None)
    assert sizes == [6, 5, 5]


@pytest.mark.parametrize("arch", ["resnet14", "resnet110", "wrn_16_1", "mobilenet_v2_half", "timm/test_resnet"])
def test_every_block_has_a_name_and_the_stage_in_it_is_the_blocks_own(arch: str) -> None:
    network = tiny.network(arch).eval()
    with torch.inference_mode():
        features = network.features(tiny.batch(2).images)
    names = network.block_names()
    assert len(set(names)) == len(names) == len(features.blocks)
    ends = [name for i, name in enumerate(names) if i in network.stage_ends]
    assert [name.split(".")[0] for name in ends] == [str(n) for n in range(1, len(features.stages) + 1)]
    assert thin(names)[-1] == names[-1]


def decoded(png: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png, validate=True))))


@pytest.mark.parametrize("arch", ["resnet8", "wrn_16_1", "mobilenet_v2_half", "timm/test_resnet"])
def test_energy_maps_are_the_mean_squares_of_stages_from_black_to_white(arch: str) -> None:
    network, images = tiny.network(arch).eval(), tiny.batch(3).images
    header = checkpoint.make_header(network, tiny.card(), tiny.NORMALIZATION, None, 0, {})
    seen = energy_maps.look("one", network, header, images)
    with torch.no_grad():
        features = network.features(images)
    assert len(seen["stages"]) == len(features.stages)
    for stage_seen, tap in zip(seen["stages"], features.stages, strict=True):
        for png, maps in zip(stage_seen["maps"], tap.raw.double(), strict=True):
            expected = maps.square().mean(0)
            # A map of 1 x 1, as the last ones of timm/test_resnet are, is at its least and its largest at once: black.
            expected = (255 * (expected - expected.min()) / (expected.max() - expected.min())).nan_to_num(0)
            came = decoded(png)
            assert came.shape == (stage_seen["height"], stage_seen["width"])
            np.testing.assert_allclose(came, expected, atol=0.51)
    said = features.logits.softmax(1).max(1)
    for prediction, confidence, k in zip(seen["predictions"], said.values, said.indices, strict=True):
        assert prediction == {"label": f"class {k}", "confidence": pytest.approx(confidence.item())}


def test_images_are_spread_over_the_classes_and_drawn_by_the_seed_alone() -> None:
    labels = np.array([0] * 50 + [1] * 3 + [2] + [3] * 40)
    for seed in range(5):
        chosen = energy_maps.spread_over_classes(labels, 6, seed)
        assert sorted(set(labels[chosen[:4]])) == [0, 1, 2, 3]
        assert len(set(labels[chosen[4:]])) == 2
        assert len(set(chosen)) == 6
    assert energy_maps.spread_over_classes(labels[50:52], 6, 0).shape == (2,)
    draws = {tuple(energy_maps.spread_over_classes(labels, 6, seed)) for seed in (0, 0, 1)}
    assert len(draws) == 2


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, trained: tuple[Method, engine.Result]) -> attention.Shown:
    """What the report reads of a run of three methods whose names, labels and weights were put there by hand."""
    folder = tmp_path_factory.mktemp("run")
    card = tiny.card().model_copy(update={"labels": ("<b>cat</b>", 'a "dog"', "c & d", "class 3")})
    write_json(folder / "data/card.json", card.model_dump(mode="json"))
    for name in ("train", "val", "test"):
        split = tiny.split(card.counts[name])
        (folder / f"data/{name}").mkdir()
        np.save(folder / f"data/{name}/images.npy", split.images)
        np.save(folder / f"data/{name}/labels.npy", split.labels)
    arches = {"teacher": "resnet14", **{f"students/{m}/3": "resnet8" for m in ("vanilla", "kd", "afd", "rkd")}}
    for name, arch in arches.items():
        network = tiny.network(arch)
        header = checkpoint.make_header(network, card, tiny.NORMALIZATION, None, 3, {})
        checkpoint.save(network, header, folder / name / "model.safetensors")
        history = trained[1].history if "afd" in name else [{"epoch": 1}]
        write_json(folder / name / "history.json", {"val_seen_in_training": False, "epochs": history})
    methods: dict[str, Any] = {name: {} for name in ("vanilla", "kd", "afd", "rkd")}
    write_json(folder / "params.yaml", {"distill": {"seeds": [3], "methods": methods}})
    write_json(folder / "chosen.json", {"method": "kd", "seed": 3})
    teacher, out = folder / "teacher/model.safetensors", folder / "energy_maps.json"
    stage(folder / "params.yaml", folder / "data", teacher, folder / "students", folder / "chosen.json", out)
    return attention.collect(folder / "students", tuple(methods), 3, out)


def test_the_stage_shows_the_baseline_those_that_compare_energies_and_the_one_that_ships(
    shown: attention.Shown,
) -> None:
    assert [network.name for network in shown.energy.networks] == ["teacher", "vanilla", "kd", "afd"]
    assert [course.method for course in shown.courses] == ["afd"]
    test = tiny.split(32)
    for image in shown.energy.images:
        np.testing.assert_array_equal(decoded(image.png), test.images[image.position])
    assert len({image.label for image in shown.energy.images}) == tiny.CLASSES


def test_the_section_escapes_labels_and_holds_every_map(shown: attention.Shown) -> None:
    html = attention.section(shown)
    assert "<b>cat" not in html
    assert "&lt;b&gt;cat" in html
    assert "c &amp; d" in html
    assert html.count("data:image/png;base64,") == 6 * (1 + 4 * 3)
    assert html.count('class="heat"') == 3
    assert html.count('class="strip"') == 6
    assert "After epoch 2" in html
    assert "<script" not in html
    assert "No method of this run" not in html


def test_a_run_without_attention_says_so(shown: attention.Shown) -> None:
    html = attention.section(shown.model_copy(update={"courses": ()}))
    assert "No method of this run has an attention" in html
    assert 'class="heat"' not in html


def test_a_training_of_one_epoch_has_one_picture_and_no_course(shown: attention.Shown) -> None:
    course = shown.courses[0].model_copy(update={"seen": shown.courses[0].seen[:1]})
    html = attention.section(shown.model_copy(update={"courses": (course,)}))
    assert html.count('class="heat"') == 1
    assert "over training" not in html


def test_a_mean_over_images_seen_in_training_is_labelled(shown: attention.Shown) -> None:
    assert "seen in training" not in attention.section(shown)
    course = shown.courses[0].model_copy(update={"val_seen_in_training": True})
    html = attention.section(shown.model_copy(update={"courses": (course,)}))
    assert "validation images, seen in training, the same after every epoch" in html


def test_torn_attention_is_refused_by_its_file_and_stage(shown: attention.Shown, tmp_path: Path) -> None:
    torn = shown.energy.model_dump()
    torn["networks"][1]["stages"][0]["maps"] = []
    write_json(tmp_path / "maps.json", torn)
    with pytest.raises(
        PupilError, match=r"maps\.json is not what the report expects: .*vanilla .*dvc repro energy_maps"
    ):
        attention.collect(tmp_path, (), 0, tmp_path / "maps.json")
    weights_torn = {"rows": ["1"], "columns": ["1", "2"], "weights": [[1.0]], "images": 2}
    write_json(
        tmp_path / "afd/0/history.json",
        {"val_seen_in_training": False, "epochs": [{"epoch": 1, "attention": weights_torn}]},
    )
    with pytest.raises(
        PupilError, match=r"history\.json .*must have one row for each teacher block.*dvc repro distill"
    ):
        attention.collect(tmp_path, ("afd",), 0, tmp_path / "maps.json")


def test_a_long_course_is_drawn_by_at_most_sixty_epochs_with_the_first_and_the_last() -> None:
    def after(epoch: int) -> attention.Attention:
        weights = ((epoch / 200, 1 - epoch / 200),)
        return attention.Attention(rows=("1",), columns=("1", "2"), weights=weights, images=2)

    seen = tuple((epoch, after(epoch)) for epoch in range(1, 201))
    course = attention.Course(method="afd", seed=0, seen=seen, val_seen_in_training=False)
    first, second = course.strip(0)
    assert (len(first), first[0], first[-1]) == (60, 1 / 200, 1.0)
    np.testing.assert_allclose(np.add(first, second), 1)
    assert [epoch for epoch, _ in course.pictures()] == [1, 101, 200]
    assert course.pictures()[1][1].width == pytest.approx(2, abs=1e-3)
    assert course.pictures()[2][1].width == 1


def test_cells_cover_each_share_once_by_runs_of_one_shade() -> None:
    assert str(heat.cells([[0.5, 0.5, 0.0], [0.25, 0.0, 0.5]], 0.5)) == (
        '<path fill-opacity="0.5" d="M0 1h1v1h-1z"/><path fill-opacity="1.0" d="M0 0h2v1h-2zM2 1h1v1h-1z"/>'
    )
