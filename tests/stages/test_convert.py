"""The student in other runtimes: those that are installed compute the same, and the rest say what to install."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.conversion import base
from pipeline.deployment import export, trial
from pipeline.models import checkpoint
from pipeline.system import registry
from pipeline.system.errors import ParamsError, ParityError, PupilError
from stages.convert import convert
from tests import tiny
from tests.models.test_checkpoint import header

# What other packages warn of is theirs.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

RUNTIMES = registry.names("pipeline.conversion")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a student in its three forms, and images to try them on."""
    folder = tmp_path_factory.mktemp("project")
    model = tiny.network("resnet8")
    torch.nn.init.normal_(model.fc.bias)
    model.train()(torch.randn(16, 3, 32, 32))
    checkpoint.save(model.eval(), header("resnet8"), folder / "student.safetensors")
    servable = export.Servable(model, tiny.NORMALIZATION)
    export.write_onnx(servable, export.make_card("student", header("resnet8"), {}), folder / "student.onnx", 20)
    trial.write_int8(folder / "student.onnx", folder / "student.int8.onnx")
    (folder / "data/test").mkdir(parents=True)
    split = tiny.split(32)
    np.save(folder / "data/test/images.npy", split.images)
    np.save(folder / "data/test/labels.npy", split.labels)
    (folder / "data/card.json").write_text(tiny.card().model_dump_json())
    (folder / "params.yaml").write_text("{}")
    return folder


def run(project: Path, to: str, out: Path, onnx: str = "student.onnx", weights: str = "student.safetensors") -> None:
    convert(to, project / onnx, project / weights, project / "params.yaml", project / "data", out)


@pytest.mark.parametrize("name", RUNTIMES)
def test_an_installed_runtime_answers_the_same_and_another_says_what_to_install(
    name: str, project: Path, tmp_path: Path
) -> None:
    runtime = registry.find("pipeline.conversion", name, "--to")
    missing = [package for module, package in runtime.NEEDS.items() if importlib.util.find_spec(module) is None]
    if missing:
        command = rf"\.venv/uv/bin/uv pip install --python \.venv/bin/python {' '.join(missing)} "
        with pytest.raises(PupilError, match=rf"--to {name} needs .*: {command}"):
            run(project, name, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return
    run(project, name, tmp_path / "out")
    record = json.loads((tmp_path / "out" / name / "parity.json").read_text(encoding="utf-8"))
    assert (record["images"], record["top1_agreement"]) == (32, 100.0)
    assert record["max_probability_error"] < 1e-5


@pytest.mark.parametrize("name", RUNTIMES)
def test_int8_is_converted_or_refused(name: str, project: Path, tmp_path: Path) -> None:
    runtime = registry.find("pipeline.conversion", name, "--to")
    if any(importlib.util.find_spec(module) is None for module in runtime.NEEDS):
        pytest.skip(f"{name} is not installed")
    if not runtime.FROM_ONNX:
        with pytest.raises(ParamsError, match=r"computes in int8\. Name the float32 file"):
            run(project, name, tmp_path / "out", "student.int8.onnx")
        return
    run(project, name, tmp_path / "out", "student.int8.onnx")
    (weights,) = (tmp_path / "out" / name).glob("*.bin")
    assert weights.stat().st_size < 0.5 * (project / "student.onnx").stat().st_size


@pytest.mark.parametrize("name", RUNTIMES)
def test_other_weights_are_refused_and_nothing_is_left(name: str, project: Path, tmp_path: Path) -> None:
    runtime = registry.find("pipeline.conversion", name, "--to")
    if runtime.FROM_ONNX or any(importlib.util.find_spec(module) is None for module in runtime.NEEDS):
        pytest.skip(f"{name} is not installed, or reads no weights")
    checkpoint.save(tiny.network("resnet8", seed=5).eval(), header("resnet8"), project / "other.safetensors")
    with pytest.raises(ParityError, match=r"differ from ONNX Runtime's by up to .* No file was written"):
        run(project, name, tmp_path / "out", weights="other.safetensors")
    assert not (tmp_path / "out" / name).exists()


def test_an_unknown_runtime_is_refused_with_the_nearest(project: Path, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"--to: there is no 'openvin' \(did you mean 'openvino'\?\)"):
        run(project, "openvin", tmp_path)


def softmax(logits: NDArray[np.float32]) -> export.Outputs:
    return torch.from_numpy(logits).softmax(1).numpy(), logits


def test_a_difference_is_judged_by_probabilities_or_by_answers() -> None:
    pixels = tiny.split(10).images

    def reference(images: NDArray[np.uint8]) -> export.Outputs:
        return softmax(images.mean((1, 2)).astype(np.float32))

    def shifted(images: NDArray[np.uint8]) -> export.Outputs:
        """Every top-1 as before but that of the first image."""
        logits = 0.9 * images.mean((1, 2)).astype(np.float32)
        if np.array_equal(images[0], pixels[0]):
            logits[0] = -logits[0]
        return softmax(logits)

    same = base.compare(reference, reference, pixels, 3, 1e-6, None)
    assert same == {"images": 10, "max_probability_error": 0.0, "top1_agreement": 100.0}
    with pytest.raises(ParityError, match=r"probabilities differ from ONNX Runtime's by up to \d"):
        base.compare(shifted, reference, pixels, 3, 1e-4, None)
    assert base.compare(shifted, reference, pixels, 3, 1e-4, 10.0)["top1_agreement"] == 90.0
    with pytest.raises(ParityError, match=r"another top-1 than ONNX Runtime for 10\.00 % of 10 images"):
        base.compare(shifted, reference, pixels, 3, 1e-4, 9.9)
