"""Who may know whom, checked in fresh interpreters: pipeline and serve never import each other."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline

ROOT = Path(__file__).parent.parent
MODULES = [m.name for m in pkgutil.walk_packages(pipeline.__path__, "pipeline.")]
# ONNX Runtime is what quantises, and what says how well; nothing else of the library needs it.
QUANTISES = {"pipeline.quantize", "pipeline.gate"}


def python(code: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("unwanted", ["serve", "stages", "dvclive", "dvc", "onnxruntime", "starlette"])
def test_the_library_imports_nothing_that_serves_or_runs_stages(unwanted: str) -> None:
    modules = [name for name in MODULES if unwanted != "onnxruntime" or name not in QUANTISES]
    loaded = python(f"import sys\nfor m in {modules}: __import__(m)\nprint('{unwanted}' in sys.modules)")
    assert loaded.strip() == "False"


def test_importing_the_library_has_no_side_effect(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.dont_write_bytecode = True\n"
        f"import torch; state = torch.get_rng_state(), torch.get_num_threads(), list(sys.argv)\n"
        f"for m in {MODULES}: __import__(m)\n"
        "assert torch.equal(state[0], torch.get_rng_state()) and state[1:] == (torch.get_num_threads(), sys.argv)"
    )
    assert python(code, tmp_path) == ""
    assert not list(tmp_path.iterdir())


def test_stages_hold_no_long_files() -> None:
    # A stage past a screen is doing something that belongs into the library.
    long = {p.name: n for p in (ROOT / "stages").glob("*.py") if (n := len(p.read_text().splitlines())) > 100}
    assert not long
