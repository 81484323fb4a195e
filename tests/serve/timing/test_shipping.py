"""The file that ships: by a clock that stands still but for the calls, and for real."""

import json
from pathlib import Path

import numpy as np
import pytest

from serve.__main__ import main
from serve.errors import ServeError
from serve.model.classifier import OnnxClassifier
from serve.timing import profiled, shipping, versus
from tests import tiny_onnx
from tests.serve.timing.test_latency import Clock

INT8 = "quantized/student.int8.onnx"


@pytest.fixture
def deploy(tmp_path: Path) -> Path:
    """A student, and one in int8 that is smaller: it has fewer classes."""
    (tmp_path / "quantized").mkdir()
    tiny_onnx.write(tmp_path / "student.onnx", num_classes=40)
    tiny_onnx.write(tmp_path / INT8)
    return tmp_path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Calls of int8 take 2 ms, those of float32 what the test says in `float32_ms`."""
    made = Clock()

    class Classifier(OnnxClassifier):
        def __init__(self, path: Path, threads: int, device: str) -> None:
            super().__init__(path, threads, device)
            self._ms = made.float32_ms if path.name == "student.onnx" else 2.0  # type: ignore[attr-defined]

        def __call__(self, pixels: np.ndarray) -> np.ndarray:
            made.work(self._ms * len(pixels))()
            return super().__call__(pixels)

    monkeypatch.setattr(versus, "OnnxClassifier", Classifier)
    return made


@pytest.mark.parametrize(
    ("float32_ms", "prefer", "file", "reason"),
    [
        (6.0, "speed", INT8, "it is the smallest file, and no other one is faster beyond doubt"),
        (2.0, "speed", INT8, "it is the smallest file, and no other one is faster beyond doubt"),
        (
            1.6,
            "speed",
            "student.onnx",
            f"it is 1.25 times as fast [1.25, 1.25] as {INT8}, the smallest file; the time of {INT8} goes into ",
        ),
        (1.6, "size", INT8, "it is the smallest file, as asked for"),
    ],
    ids=["int8 is faster", "a tie", "int8 is slower", "size"],
)
def test_the_fastest_file_ships_and_of_equals_the_smaller(
    float32_ms: float, prefer: shipping.Prefer, file: str, reason: str, deploy: Path, clock: Clock
) -> None:
    clock.float32_ms = float32_ms  # type: ignore[attr-defined]
    manifest = shipping.ship(deploy, shipping.Wish(prefer, batch_size=4, device="cpu"), clock)
    assert manifest["file"] == file
    assert manifest["reason"].startswith(reason)
    assert (deploy / "deployed.onnx").read_bytes() == (deploy / file).read_bytes()
    assert json.loads((deploy / "deployed.json").read_text(encoding="utf-8")) == manifest
    assert {name: it["p50_ms"] for name, it in manifest["candidates"].items()} == {
        INT8: 8.0,
        "student.onnx": pytest.approx(4 * float32_ms),
    }
    assert f"deployed.onnx is {file}: {manifest['reason']}." in shipping.told(manifest)


def test_what_the_time_goes_into_is_named(deploy: Path) -> None:
    of_operators = profiled.shares((deploy / "student.onnx").read_bytes(), versus.noise(2, 8), threads=1, calls=3)
    assert sum(of_operators.values()) == pytest.approx(1)
    assert "Softmax" in of_operators
    made_up = {"QLinearConv": 0.5, "HardSwish": 0.3, "QuantizeLinear": 0.17, "Softmax": 0.02, "QGemm": 0.01}
    assert (
        profiled.told(made_up) == "QLinearConv 50 %, HardSwish 30 %, QuantizeLinear 17 %; 49 % of it is not in integers"
    )


def test_a_refused_file_never_ships(deploy: Path) -> None:
    (deploy / INT8).rename(deploy / "quantized/student.int8.refused.onnx")
    manifest = shipping.ship(deploy, shipping.Wish(device="cpu"))
    assert (manifest["file"], manifest["reason"]) == ("student.onnx", "no other file was accepted for this device")
    assert manifest["left_out"] == {
        "student.int8.refused.onnx": "student.int8.refused.onnx was refused by stage quantize"
    }


def test_the_command_chooses_anew(deploy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (deploy / "deployed.onnx").write_text("an older one")
    assert main(["choose", str(deploy), "--device", "cpu", "--batch-size", "2"]) == 0
    manifest = json.loads((deploy / "deployed.json").read_text(encoding="utf-8"))
    assert (manifest["batch_size"], set(manifest["candidates"])) == (2, {"student.onnx", INT8})
    assert (deploy / "deployed.onnx").read_bytes() == (deploy / manifest["file"]).read_bytes()
    assert f"deployed.onnx is {manifest['file']}" in capsys.readouterr().out
    assert sorted(path.name for path in deploy.iterdir()) == [
        "deployed.json",
        "deployed.onnx",
        "quantized",
        "student.onnx",
    ]


def test_a_folder_without_a_student_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServeError, match=r"holds no student\.onnx\. Name the folder that stage export writes"):
        shipping.ship(tmp_path, shipping.Wish())
