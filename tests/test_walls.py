"""Who may know whom: rooms by their imports as the source text has them, whole libraries in a fresh interpreter."""

import ast
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline

ROOT = Path(__file__).parent.parent
MODULES = [m.name for m in pkgutil.walk_packages(pipeline.__path__, "pipeline.")]
# A room knows rooms that stand lower in its house, and no others; rooms of one line do not know each other.
PIPELINE = (
    ("choosing",),
    ("sweep", "conversion"),
    ("deployment", "training", "report", "teaching"),
    ("evaluation",),
    ("distillation", "sources", "weights"),
    ("models", "preparation"),
    ("data",),
    ("devices", "settings"),
    ("system",),
)
# Files beside the rooms of serve (errors, machine, ...) know no room, and every room may know them.
SERVE = (("commands",), ("http", "load", "package"), ("timing",), ("model",))
HTTP_AND_PACKAGE_KNOW = {"model"}
# ONNX Runtime is what quantises, and what says how well; nothing else of the library needs it.
QUANTISES = {f"pipeline.deployment.{name}" for name in ("quantize", "gate", "judge", "search")}


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


@pytest.mark.slow
@pytest.mark.parametrize("unwanted", ["serve", "stages", "dvclive", "dvc", "onnxruntime", "starlette"])
def test_the_library_imports_nothing_that_serves_or_runs_stages(
    unwanted: str, imported: tuple[Path, list[list[str]]]
) -> None:
    _, (plain, everything) = imported
    assert "pipeline" in plain
    assert "onnxruntime" in everything
    assert unwanted not in (plain if unwanted == "onnxruntime" else everything)


@pytest.mark.slow
def test_importing_the_library_has_no_side_effect(imported: tuple[Path, list[list[str]]]) -> None:
    folder, _ = imported
    assert not list(folder.iterdir())


def known(house: str, room: str) -> set[str]:
    """The rooms of its house that a room may know."""
    levels = PIPELINE if house == "pipeline" else SERVE
    depth = next((number for number, level in enumerate(levels) if room in level), None)
    if depth is None:
        return set()
    below = {name for level in levels[depth + 1 :] for name in level}
    return below & HTTP_AND_PACKAGE_KNOW if (house, room) in {("serve", "http"), ("serve", "package")} else below


def breaches(root: Path) -> list[str]:
    """Imports that go through a wall, in words: file, line, which room does not know which."""
    found = []
    for house, other in (("pipeline", "serve"), ("serve", "pipeline")):
        rooms = {path.name for path in (root / house).iterdir() if (path / "__init__.py").is_file()}
        for path in sorted((root / house).rglob("*.py")):
            inside = path.relative_to(root / house).parts
            room = inside[0] if inside[0] in rooms else ""
            for line, name in imports(path):
                into, _, rest = name.partition(".")
                target = rest.partition(".")[0] if rest.partition(".")[0] in rooms else ""
                place = f"{path.relative_to(root).as_posix()}:{line}"
                if into in (other, "stages", "benchmarks"):
                    found.append(f"{place}: {house} must not know {into}")
                elif into == house and target and target != room and target not in known(house, room):
                    found.append(f"{place}: {house}/{room} must not know {house}/{target}")
    return found


def imports(path: Path) -> list[tuple[int, str]]:
    """Line and dotted name of everything that a file imports."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def test_every_room_stands_in_the_list() -> None:
    for house, levels in (("pipeline", PIPELINE), ("serve", SERVE)):
        rooms = {path.parent.name for path in (ROOT / house).glob("*/__init__.py")}
        assert rooms == {room for level in levels for room in level}


def test_no_room_knows_one_that_stands_higher() -> None:
    # serve/__main__.py lists the commands, which is what it is for.
    allowed = "serve/__main__.py:"
    assert [breach for breach in breaches(ROOT) if not breach.startswith(allowed)] == []


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("pipeline/data/arrays.py", "from pipeline.models import base", "pipeline/data must not know pipeline/models"),
        ("pipeline/report/page.py", "from pipeline.training import engine", "pipeline/report must not know"),
        ("pipeline/system/files.py", "import pipeline.settings.params", "pipeline/system must not know"),
        ("pipeline/models/base.py", "from serve import machine", "pipeline must not know serve"),
        ("serve/http/app.py", "from serve.timing import latency", "serve/http must not know serve/timing"),
        ("serve/model/card.py", "from pipeline.data import card", "serve must not know pipeline"),
    ],
)
def test_a_wrong_import_is_named_with_its_wall(file: str, line: str, said: str, tmp_path: Path) -> None:
    for house, levels in (("pipeline", PIPELINE), ("serve", SERVE)):
        for room in (name for level in levels for name in level):
            (tmp_path / house / room).mkdir(parents=True)
            (tmp_path / house / room / "__init__.py").touch()
    (tmp_path / file).write_text(f"{line}\n", encoding="utf-8")
    (breach,) = breaches(tmp_path)
    assert breach.startswith(f"{file}:1: {said}")


def test_stages_hold_no_long_files() -> None:
    # A stage past a screen is doing something that belongs into the library.
    long = {p.name: n for p in (ROOT / "stages").glob("*.py") if (n := len(p.read_text().splitlines())) > 100}
    assert not long
