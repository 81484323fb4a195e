"""Who may know whom, checked in fresh interpreters: pipeline and serve never import each other."""

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline

ROOT = Path(__file__).parent.parent
MODULES = [m.name for m in pkgutil.walk_packages(pipeline.__path__, "pipeline.")]
# ONNX Runtime is what quantises, and what says how well; nothing else of the library needs it.
QUANTISES = {"pipeline.deployment.quantize", "pipeline.deployment.gate"}


PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
import torch
state = torch.get_rng_state(), torch.get_num_threads(), list(sys.argv)
loaded = []
for modules in json.loads(sys.argv[2]):
    for module in modules:
        __import__(module)
    loaded.append(sorted({name.partition(".")[0] for name in sys.modules}))
assert torch.equal(state[0], torch.get_rng_state()) and state[1:] == (torch.get_num_threads(), sys.argv)
print(json.dumps(loaded))
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]]]:
    """The empty folder that a fresh interpreter imported the library in, and the packages then loaded.

    First without the modules that quantise, then with them. One interpreter for all tests: it takes seconds.
    """
    folder = tmp_path_factory.mktemp("empty")
    plain = [name for name in MODULES if name not in QUANTISES]
    command = [sys.executable, "-c", PROGRAM, str(ROOT), json.dumps([plain, sorted(QUANTISES)])]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    # Were anything else printed, this would fail: importing says nothing.
    return folder, json.loads(done.stdout)


@pytest.mark.parametrize("unwanted", ["serve", "stages", "dvclive", "dvc", "onnxruntime", "starlette"])
def test_the_library_imports_nothing_that_serves_or_runs_stages(
    unwanted: str, imported: tuple[Path, list[list[str]]]
) -> None:
    _, (plain, everything) = imported
    assert "pipeline" in plain
    assert "onnxruntime" in everything
    assert unwanted not in (plain if unwanted == "onnxruntime" else everything)


def test_importing_the_library_has_no_side_effect(imported: tuple[Path, list[list[str]]]) -> None:
    folder, _ = imported
    assert not list(folder.iterdir())


def test_stages_hold_no_long_files() -> None:
    # A stage past a screen is doing something that belongs into the library.
    long = {p.name: n for p in (ROOT / "stages").glob("*.py") if (n := len(p.read_text().splitlines())) > 100}
    assert not long
