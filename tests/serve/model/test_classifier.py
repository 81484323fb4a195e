"""serve.model.classifier and serve.model.card: what a sound file computes, and what is said about an unsound one."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.deployment import onnx_file
from serve.errors import InputError, ModelError, ServeError
from serve.model import devices
from serve.model.card import Card
from serve.model.classifier import OnnxClassifier
from tests import tiny_onnx

CARD = tiny_onnx.card() | {"graph_sha256": "2" * 64}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OnnxClassifier:
    return OnnxClassifier(tiny_onnx.write(tmp_path_factory.mktemp("onnx") / "student.onnx"), device="cpu")


def pixels(n: int, size: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def refusal(path: Path) -> str:
    """The ModelError's message, once it is known to be one paragraph that names the file."""
    with pytest.raises(ModelError) as caught:
        OnnxClassifier(path, device="cpu")
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("n", [1, 2, 7])
def test_computes_what_the_graph_says(model: OnnxClassifier, n: int) -> None:
    probabilities, logits = model.outputs(pixels(n))
    expected = tiny_onnx.expected_logits(pixels(n))
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    exponentials = np.exp(expected - expected.max(axis=1, keepdims=True))
    np.testing.assert_allclose(probabilities, exponentials / exponentials.sum(axis=1, keepdims=True), atol=1e-6)
    assert probabilities.dtype == logits.dtype == np.float32
    np.testing.assert_array_equal(model(pixels(n)), probabilities)


def test_strided_pixels_are_read_as_they_stand(model: OnnxClassifier) -> None:
    flipped = pixels(4)[::-1, :, ::-1]
    assert not flipped.flags.c_contiguous
    np.testing.assert_array_equal(model(flipped), model(np.ascontiguousarray(flipped)))


def test_threads_do_not_mix_their_answers(model: OnnxClassifier) -> None:
    batches = [pixels(1 + seed % 3, seed=seed) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for batch, answer in zip(batches, pool.map(model, batches), strict=True):
            np.testing.assert_array_equal(answer, model(batch))


def test_one_class_is_a_classifier(tmp_path: Path) -> None:
    model = OnnxClassifier(tiny_onnx.write(tmp_path / "one.onnx", num_classes=1), device="cpu")
    np.testing.assert_array_equal(model(pixels(2)), [[1.0], [1.0]])


def test_provider_is_the_one_that_runs(model: OnnxClassifier) -> None:
    assert model.provider == "CPUExecutionProvider"


def test_default_provider_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    default = OnnxClassifier(tiny_onnx.write(tmp_path / "student.onnx"))
    assert default.provider in ("CPUExecutionProvider", "CUDAExecutionProvider")
    assert capfd.readouterr() == ("", "")


def test_cuda_that_cannot_be_used_is_refused_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_missing", lambda: "there is no GPU")
    with pytest.raises(ServeError, match=r"CUDA cannot be used here: there is no GPU\."):
        OnnxClassifier(tiny_onnx.write(tmp_path / "student.onnx"), device="cuda")


@pytest.mark.parametrize(
    ("wrong", "expected", "came"),
    [
        (pixels(1).astype(np.float32), "uint8", "float32"),
        (pixels(1)[0], "(N, 8, 8, 3)", "(8, 8, 3)"),
        (pixels(1, size=9), "(N, 8, 8, 3)", "(1, 9, 9, 3)"),
        (pixels(1).transpose(0, 3, 1, 2), "(N, 8, 8, 3)", "(1, 3, 8, 8)"),
        (pixels(1)[..., :1], "(N, 8, 8, 3)", "(1, 8, 8, 1)"),
        (pixels(0), "at least one image", "none"),
        (np.uint8(3), "(N, 8, 8, 3)", "()"),
    ],
)
def test_wrong_pixels_say_what_was_expected_and_what_came(
    model: OnnxClassifier, wrong: np.ndarray, expected: str, came: str
) -> None:
    for call in (model, model.outputs):
        with pytest.raises(InputError) as caught:
            call(wrong)
        assert expected in str(caught.value)
        assert came in str(caught.value)


def test_card_comes_back_typed(model: OnnxClassifier) -> None:
    assert model.card == Card(
        name="student",
        precision="float32",
        weight_bits=None,
        labels=("class 0", "class 1", "class 2"),
        image_px=8,
        resize_px=8,
        cut_px=8,
        mean=(0.5, 0.25, 0.125),
        std=(0.25, 0.5, 0.125),
        arch="tiny",
        method="kd",
        seed=0,
        num_parameters=12,
        macs=9,
        metrics={"top1": 50.0, "top5": 100.0},
        params_sha256="0" * 64,
        data_sha256="1" * 64,
        data_licence=None,
        graph_sha256=hashlib.sha256(tiny_onnx.build(num_classes=3).SerializeToString(deterministic=True)).hexdigest(),
    )


def test_card_may_hold_nulls_twin_labels_and_keys_of_the_future() -> None:
    values = CARD | {"method": None, "seed": None, "labels": ["crane", "crane"], "colour": "blue"}
    card = Card.from_json(json.dumps(values))
    assert (card.method, card.seed, card.labels) == (None, None, ("crane", "crane"))


@pytest.mark.parametrize("key", [key for key in CARD if key not in ("format", "resize_px")])
def test_card_without_a_key_is_refused_by_its_name(key: str) -> None:
    values = {name: value for name, value in CARD.items() if name != key}
    with pytest.raises(ModelError, match=f"no '{key}'"):
        Card.from_json(json.dumps(values))


def test_a_card_from_before_resize_px_means_image_px() -> None:
    values = {name: value for name, value in CARD.items() if name != "resize_px"}
    assert Card.from_json(json.dumps(values)).resize_px == CARD["image_px"]


def test_files_are_not_scaled_below_what_the_model_takes() -> None:
    with pytest.raises(ModelError, match="resize_px = 7, below cut_px = 8"):
        Card.from_json(json.dumps(CARD | {"resize_px": 7}))
    with pytest.raises(ModelError, match="cut_px = 7, below image_px = 8"):
        Card.from_json(json.dumps(CARD | {"cut_px": 7}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "a/b"),
        ("name", ""),
        ("labels", []),
        ("labels", "abc"),
        ("labels", ["a", 1]),
        ("image_px", 0),
        ("image_px", 8.0),
        ("image_px", True),
        ("resize_px", "8"),
        ("resize_px", 4097),
        ("cut_px", 0),
        ("arch", "\ud800"),
        ("image_px", 10**9),
        ("mean", [0.5, 0.5]),
        ("mean", [0.5, 0.5, float("nan")]),
        ("mean", [10**400, 0, 0]),
        ("std", [1, 0, 1]),
        ("arch", None),
        ("seed", "0"),
        ("num_parameters", -1),
        ("metrics", {"top1": "high"}),
        ("metrics", {"top1": float("inf")}),
        ("data_licence", ""),
    ],
)
def test_impossible_card_values_are_named(key: str, value: object) -> None:
    with pytest.raises(ModelError, match=f"{key} = .*, expected"):
        Card.from_json(json.dumps(CARD | {key: value}))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "a JSON list, not an object"),
        ("{}", "format None"),
        ('{"format": 2}', "format 2, but this server reads format 1"),
    ],
)
def test_texts_that_are_no_card(text: str, complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        Card.from_json(text)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.onnx")
    assert "no such file" in refusal(tmp_path)
    assert "it cannot be read (File name too long)" in refusal(tmp_path / ("x" * 300))


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x00" * 100, b"\x0a\x0apupil_card\x12"])
def test_files_that_are_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert "does not end in a 'pupil_card' entry" in refusal(path)


def test_a_sound_card_behind_something_that_is_not_onnx(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    junk = b"no model at all"
    card = CARD | {"graph_sha256": hashlib.sha256(junk).hexdigest()}
    entry = onnx.ModelProto(metadata_props=[onnx.StringStringEntryProto(key="pupil_card", value=json.dumps(card))])
    path.write_bytes(junk + entry.SerializeToString())
    assert "ONNX Runtime cannot load it" in refusal(path)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
def test_torn_file(tmp_path: Path, keep: float) -> None:
    path = tiny_onnx.write(tmp_path / "model.onnx")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    assert "does not end in a 'pupil_card' entry: it was cut short" in refusal(path)


def test_file_without_a_card(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_onnx.build().SerializeToString())
    assert "does not end in a 'pupil_card' entry" in refusal(path)


@pytest.mark.parametrize("where", [0.0, 0.3, 0.6])
def test_a_single_changed_bit_of_the_network_is_refused(tmp_path: Path, where: float) -> None:
    path = tiny_onnx.write(tmp_path / "model.onnx")
    content = bytearray(path.read_bytes())
    content[int(where * len(tiny_onnx.build().SerializeToString()))] ^= 1
    path.write_bytes(content)
    assert "its network is not the one that its card was written for: expected sha256 " in refusal(path)


def test_a_card_of_another_network_is_refused(tmp_path: Path) -> None:
    path, other = tiny_onnx.write(tmp_path / "model.onnx"), tiny_onnx.write(tmp_path / "other.onnx", seed=1)
    begin = len(tiny_onnx.build().SerializeToString())
    path.write_bytes(path.read_bytes()[:begin] + other.read_bytes()[begin:])
    assert "its network is not the one" in refusal(path)


def test_a_file_that_another_tool_wrote_anew_says_so(tmp_path: Path) -> None:
    path = tiny_onnx.write(tmp_path / "model.onnx")
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"pupil_card": model.metadata_props[0].value, "later": "1"})
    onnx.save(model, path)
    assert "does not end in a 'pupil_card' entry: it was cut short, changed" in refusal(path)


@pytest.mark.parametrize("length", [1, 90, 127, 128, 16_300, 20_000])
def test_cards_of_any_length_are_found(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.onnx"
    labels = ("a", "b", "\u00fc" * length)
    onnx_file.write(tiny_onnx.build(), tiny_onnx.card(labels=labels), path)
    assert OnnxClassifier(path, device="cpu").card.labels == labels


@pytest.mark.parametrize(
    ("card", "complaint"),
    [
        (tiny_onnx.card(image_px=16), r"'pixels' is tensor\(uint8\) \['batch', 8, 8, 3\].*\['batch', 16, 16, 3\]"),
        (tiny_onnx.card(labels=("a", "b")), r"'probabilities' is .* \['batch', 3\].*\['batch', 2\]"),
    ],
)
def test_shapes_that_contradict_the_card(tmp_path: Path, card: dict[str, object], complaint: str) -> None:
    path = tmp_path / "model.onnx"
    onnx_file.write(tiny_onnx.build(), card, path)
    with pytest.raises(ModelError, match=complaint):
        OnnxClassifier(path, device="cpu")


def test_frozen_batch_axis_is_refused(tmp_path: Path) -> None:
    model = tiny_onnx.build()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    path = tmp_path / "model.onnx"
    onnx_file.write(model, tiny_onnx.card(), path)
    assert "[1, 8, 8, 3], but its card promises tensor(uint8) ['batch', 8, 8, 3]" in refusal(path)


def test_missing_output_and_foreign_input_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    model = tiny_onnx.build()
    del model.graph.output[1]
    onnx_file.write(model, tiny_onnx.card(), path)
    assert "no output 'logits', only ['probabilities']" in refusal(path)

    model = tiny_onnx.build()
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["batch"]))
    onnx_file.write(model, tiny_onnx.card(), path)
    assert "its inputs are ['pixels', 'mask'], expected ['pixels']" in refusal(path)


def test_threads_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        OnnxClassifier(tiny_onnx.write(tmp_path / "student.onnx"), threads=0)
