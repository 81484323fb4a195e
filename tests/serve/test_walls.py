"""serve runs where torch is not installed and knows nothing of the pipeline. Told by a fresh interpreter."""

import json
import subprocess
import sys
from pathlib import Path

from tests import tiny_onnx

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "serve").rglob("*.py")
)
OUTSIDE = {"torch", "torchvision", "timm", "onnx", "pipeline", "stages", "dvc", "pydantic", "sklearn"}


def loaded_by(script: str) -> set[str]:
    """Top-level packages in sys.modules after a script; a warning of ours is an error there too."""
    tail = "\nimport json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    command = [sys.executable, "-W", "error", "-c", script + tail]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout))


def test_the_modules_are_found() -> None:
    assert {"serve", "serve.http.app", "serve.model.classifier", "serve.machine", "serve.__main__"} <= set(MODULES)


def test_importing_any_module_first_loads_nothing_of_the_pipeline() -> None:
    # Each anew and first of all of serve, as if alone; what others brought in stays, and is told once.
    script = (
        "import importlib, sys\n"
        f"for module in {MODULES}:\n"
        "    for name in [name for name in sys.modules if name.partition('.')[0] == 'serve']:\n"
        "        del sys.modules[name]\n"
        "    importlib.import_module(module)"
    )
    assert loaded_by(script) & OUTSIDE == set()


def test_using_a_model_loads_nothing_of_the_pipeline(tmp_path: Path) -> None:
    path = tiny_onnx.write(tmp_path / "student.onnx")
    script = (
        "from pathlib import Path; import numpy as np; from serve.model.classifier import OnnxClassifier; "
        f"OnnxClassifier(Path({str(path)!r}))(np.zeros((1, 8, 8, 3), np.uint8))"
    )
    loaded = loaded_by(script)
    assert "onnxruntime" in loaded
    assert loaded & OUTSIDE == set()


def test_the_machine_is_described_without_numpy_and_onnxruntime() -> None:
    loaded = loaded_by("from serve import machine; machine.describe()")
    assert loaded & {"numpy", "onnxruntime", "starlette"} == set()


def test_no_pickle_is_read() -> None:
    for path in (ROOT / "serve").rglob("*.py"):
        assert "pickle" not in path.read_text().replace("allow_pickle=False", ""), path


def test_help_works() -> None:
    for arguments in ([], ["run"], ["benchmark"], ["load"], ["package"]):
        command = [sys.executable, "-m", "serve", *arguments, "--help"]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert run.stdout.startswith("usage: python -m serve")
        assert run.stderr == ""
