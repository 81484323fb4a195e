"""A folder that is handed on: what its card says, and that the program in it needs nothing of this project."""

import builtins
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image
from ruamel.yaml import YAML

from pipeline.deployment import onnx_file
from serve.__main__ import main
from serve.model.classifier import OnnxClassifier
from serve.model.decode import decode
from tests import tiny_onnx

ALLOWED = {"json", "numpy", "onnxruntime", "PIL"}
LABELS = ("ant", "bee | wasp", "ко́т", "d\nog")


def write(path: Path, name: str, labels: tuple[str, ...] = LABELS, **changes: object) -> Path:
    """A model of 8 px whose images are stored with 13."""
    card = tiny_onnx.card(name, labels, 8, 13) | changes
    onnx_file.write(tiny_onnx.build(8, len(labels)), card, path)
    return path


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    smaller = {"precision": "int8", "metrics": {"top1": 48.25, "top5": 99.5}}
    return [
        write(tmp_path / "student.onnx", "student", data_licence="CC BY 4.0"),
        write(tmp_path / "student.int8.onnx", "student", **smaller),
    ]


@pytest.fixture
def latency(tmp_path: Path, models: list[Path]) -> Path:
    path = tmp_path / "latency.json"
    quick = ("--samples", "70", "--batch-sizes", "1", "4", "--thread-counts", "1")
    assert main(["benchmark", *map(str, models), *quick, "--json", str(path)]) == 0
    return path


def package(*argv: object) -> int:
    return main(["package", *map(str, argv)])


def run_readme(folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Execute the program of README.md beside the files; the packages that it imported itself."""
    (program,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(program.split("\n\n")[1].strip().splitlines()) == 5
    asked = set()

    def limited(name: str, globals: Mapping[str, Any] | None = None, *rest: Any) -> ModuleType:
        package = name.partition(".")[0]
        if globals is not None and globals.get("__name__") == "readme":
            asked.add(package)
            if package not in ALLOWED:
                raise ImportError(package)
        return builtins.__import__(name, globals, *rest)

    monkeypatch.chdir(folder)
    exec(program, {"__name__": "readme", "__builtins__": vars(builtins) | {"__import__": limited}})
    return asked


@pytest.mark.parametrize("cut_px", [8, 11])
def test_the_program_of_the_card_answers_as_the_server_does(
    cut_px: int, tmp_path: Path, models: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "handed"
    write(models[0], "student", data_licence="CC BY 4.0", cut_px=cut_px)
    assert package(*models, "--hub", folder) == 0
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "labels.json",
        "student.onnx",
        "student_int8.onnx",
    }
    assert (folder / "student_int8.onnx").read_bytes() == models[1].read_bytes()
    assert json.loads((folder / "labels.json").read_text(encoding="utf-8")) == list(LABELS)
    gradient = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    picture = Image.fromarray(gradient).resize((70, 41), Image.Resampling.BICUBIC)
    exif = picture.getexif()
    exif[0x0112] = 6  # lies on its side
    picture.save(folder / "photo.jpg", exif=exif)
    capsys.readouterr()
    assert run_readme(folder, monkeypatch) == ALLOWED
    came = capsys.readouterr().out.splitlines()
    pixels = decode((folder / "photo.jpg").read_bytes(), 8, 13, cut_px)
    (expected,) = OnnxClassifier(models[0], device="cpu")(pixels[None])
    best = (-expected).argsort()[:3]
    assert "\n".join(came) == "\n".join(f"{expected[k]:.3f} {LABELS[k]}" for k in best)
    assert expected[best[0]] > expected[best[2]] + 0.05


def test_the_hub_reads_the_card(tmp_path: Path, models: list[Path], latency: Path) -> None:
    folder = tmp_path / "handed"
    assert package(*models, "--hub", folder, "--licence", "apache-2.0", "--latency", latency) == 0
    card = ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "onnx")
    assert card.data.pipeline_tag == "image-classification"
    assert "knowledge-distillation" in card.data.tags
    _, head, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    index = YAML(typ="safe", pure=True).load(head)["model-index"]
    assert [one["name"] for one in index] == ["student", "student_int8"]
    # The Hub's own reader, which refuses what is incomplete.
    assert card.data.eval_results is not None
    measured = [(it.task_type, it.metric_type, it.metric_value) for it in card.data.eval_results]
    assert measured == [("image-classification", "accuracy", value) for value in (50.0, 100.0, 48.25, 99.5)]
    timed = json.loads(latency.read_text(encoding="utf-8"))
    for batch in timed["batches"]:
        for name in ("student", "student_int8"):
            (row,) = [line for line in card.text.splitlines() if line.startswith(f"| {name}.onnx |")]
            assert f"{batch['candidates'][name]['p50_ms']:.3f}" in row
    assert "ms for 1 image |" in card.text
    assert "ms for 4 images |" in card.text
    assert timed["machine"]["cpu"].split()[0] in card.text
    assert "- Licence of the training data: CC BY 4.0\n" in card.text
    assert "1" * 64 in card.text


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    model = write(tmp_path / "teacher.onnx", "teacher", ("ant", "bee"), metrics={}, method=None, seed=None)
    assert package(model, "--hub", tmp_path / "handed") == 0
    card = ModelCard.load(tmp_path / "handed/README.md")
    assert card.data.license is None
    assert (card.data.metrics, card.data.eval_results) == (None, None)
    assert card.data.tags == ["onnx", "onnxruntime"]
    for words in ("| not measured |", "Licence of the weights: not stated", "Licence of the training data: not stated"):
        assert words in card.text
    assert "medians" not in card.text


def test_what_cannot_be_handed_on_is_refused_with_a_reason(
    tmp_path: Path, models: list[Path], latency: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, full = tmp_path / "handed", tmp_path / "full"
    full.mkdir()
    (full / "mine").touch()
    other = write(tmp_path / "other.onnx", "other", ("x", "y"))
    unmeasured = write(tmp_path / "third.onnx", "third")
    larger = write(tmp_path / "larger.onnx", "student", seed=12345)
    torn = tmp_path / "torn.json"
    torn.write_bytes(latency.read_bytes()[:200])
    listed = tmp_path / "list.json"
    listed.write_text("[1]")
    capsys.readouterr()
    for argv, complaint in (
        ([models[0], other, "--hub", target], "other.onnx knows other classes than the model before it"),
        ([models[0], "--hub", full], "full exists already and is not an empty folder"),
        ([models[0], "--hub", target, "--licence", "My licence"], "--licence takes a name that the Hub knows"),
        ([models[0], "--hub", target, "--latency", tmp_path / "no.json"], "could not be read"),
        ([models[0], "--hub", target, "--latency", torn], "is not the JSON file of a benchmark"),
        ([models[0], "--hub", target, "--latency", listed], "is not the JSON file of a benchmark"),
        ([unmeasured, "--hub", target, "--latency", latency], "holds no times of third, only of student, student_int8"),
        ([larger, "--hub", target, "--latency", latency], "it is another file. Time it again."),
        ([models[0], "--licence", "mit", "--triton", target], "are for the model card: give --hub DIR too"),
    ):
        assert package(*argv) == 1
        error = capsys.readouterr().err
        assert complaint in error
        assert error.count("\n") == 1
        assert not target.exists()
    assert [path.name for path in full.iterdir()] == ["mine"]
