"""dvc.yaml names the rooms of code that a stage enters, and no other: DVC does not see Python's imports.

A room too few, and an edit reruns nothing; one too many, and it trains students for nothing. Rooms of plug-ins are
wider than any need, so stages name single files of them.
"""

import ast
import copy
import itertools
import re
from functools import cache, reduce
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.settings import params as parameters
from pipeline.settings import reading
from pipeline.system import registry
from pipeline.system.errors import ParamsError
from tests.closure import ROOT, closure

CODE = ("pipeline", "stages", "serve")
# The file that a stage picks by a name in params.yaml, as its deps name it, and the package that it picks from.
CHOSEN = {
    "prepare": ("pipeline/sources/${data.source}.py", "pipeline.sources"),
    "distill": ("pipeline/distillation/${item.method}.py", "pipeline.distillation"),
}
# Stages that run this pick networks too. Their deps do not name the family's file, but a hash of it that preflight
# writes: artifacts/preflight/{teacher,student}.json.
NETWORKS = "pipeline/models/base.py"
PARAMS: Any = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
# Round trip: it remembers line numbers.
DVC: Any = YAML().load(ROOT / "dvc.yaml")["stages"]
STAGES = sorted(DVC)
# preflight runs every time, whatever it depends on.
LISTED = [name for name in STAGES if not DVC[name].get("always_changed")]


def resolve(template: str, item: dict[str, Any]) -> str:
    """The text with every ${dotted.key} replaced, as DVC does."""

    def value(match: re.Match[str]) -> str:
        found: Any = {**PARAMS, "item": item}
        for key in match[1].split("."):
            found = found[key]
        return str(found)

    return re.sub(r"\$\{([\w.]+)\}", value, template)


def items(stage: str) -> list[dict[str, Any]]:
    """The combinations of a stage's matrix; one empty one for a stage without."""
    unknown = DVC[stage].keys() & {"foreach", "do", "vars", "wdir"}
    assert not unknown, f"stage {stage} uses {unknown}, which this test does not know"
    axes = {}
    for name, values in DVC[stage].get("matrix", {}).items():
        section: Any = PARAMS
        for key in values.strip("${}").split("."):
            section = section[key]
        axes[name] = list(section)
    return [dict(zip(axes, combination, strict=True)) for combination in itertools.product(*axes.values())]


def module(stage: str) -> str:
    """stages.X of the command `python -m stages.X ...`."""
    match = re.match(r"python -m (stages\.\w+) ", DVC[stage]["cmd"])
    assert match, f"the command of stage {stage} is no `python -m stages.X ...`"
    return match[1]


@cache
def needed(stage: str) -> dict[str, str]:
    """The code that a stage runs, as its deps should name it -> why.

    That is the import closure of its module, the file it picks by name, what any file that it could pick imports, and
    what those read from their own folder.
    """
    start = module(stage)
    found = dict.fromkeys(sorted(closure(start)), f"{start} imports it")
    packages = ["pipeline.models"] if NETWORKS in found else []
    if stage in CHOSEN:
        template, package = CHOSEN[stage]
        found[template] = "params.yaml names it"
        packages.append(package)
    for package in packages:
        for name in registry.names(package):
            path = f"{package.replace('.', '/')}/{name}.py"
            found |= dict.fromkeys(sorted(closure(f"{package}.{name}") - {path} - found.keys()), f"{path} imports it")
    for path in [path for path in found if "$" not in path]:
        for beside in (ROOT / path).parent.iterdir():
            if beside.is_file() and beside.suffix != ".py" and f'"{beside.name}"' in (ROOT / path).read_text("utf-8"):
                found[beside.relative_to(ROOT).as_posix()] = f"{path} reads it"
    return found


def paths(stage: str, *kinds: str) -> list[str]:
    """Paths under a stage's deps, outs, metrics or plots, whose entries are `path` or `path: {option: value}`."""
    entries = (entry for kind in kinds for entry in DVC[stage].get(kind, []))
    return [path for entry in entries for path in ([entry] if isinstance(entry, str) else entry)]


def declared(stage: str) -> dict[str, int]:
    """The code among a stage's deps -> its line in dvc.yaml."""
    deps = DVC[stage].get("deps", [])
    return {path: deps.lc.item(index)[0] + 1 for index, path in enumerate(deps) if path.split("/")[0] in CODE}


def covers(dep: str, path: str) -> bool:
    """Whether a file of code is a dependency or lies in a room that is one."""
    return path == dep or path.startswith(f"{dep}/")


@pytest.mark.parametrize("stage", LISTED)
def test_every_file_that_a_stage_runs_lies_in_what_it_names(stage: str) -> None:
    deps = declared(stage)
    missing = [f"{path} ({why})" for path, why in needed(stage).items() if not any(covers(dep, path) for dep in deps)]
    if missing:
        places = "\n".join(missing)
        pytest.fail(f"dvc.yaml, stage {stage}: dvc would not run it again when these change:\n{places}", pytrace=False)


@pytest.mark.parametrize("stage", LISTED)
def test_a_stage_names_no_code_that_it_does_not_run(stage: str) -> None:
    stale = [dep for dep in declared(stage) if not any(covers(dep, path) for path in needed(stage))]
    assert not stale, f"dvc.yaml, stage {stage}: dvc would run it again for nothing when these change: {stale}"


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_names_of_the_code_is_there(stage: str) -> None:
    for path, line in declared(stage).items():
        for item in items(stage):
            assert (ROOT / resolve(path, item)).exists(), f"dvc.yaml line {line}: {path} is not there"


def rerun_by(path: str) -> set[str]:
    """Stages that DVC runs again when this file of code changes or appears, each matrix item by its own name."""
    return {
        "@".join([stage, *map(str, item.values())])
        for stage in LISTED
        for item in items(stage)
        if any(covers(resolve(dep, item), path) for dep in declared(stage))
    }


def test_a_new_method_trains_no_old_one() -> None:
    assert rerun_by("pipeline/distillation/brand_new.py") == set()
    assert rerun_by("pipeline/distillation/kd.py") == {f"distill@kd@{seed}" for seed in PARAMS["distill"]["seeds"]}


def test_a_new_source_and_a_new_family_run_nothing_again() -> None:
    assert rerun_by("pipeline/sources/brand_new.py") == set()
    assert rerun_by("pipeline/models/brand_new.py") == set()


@pytest.mark.parametrize("file", ["findings/wording.py", "page.css", "sections/answer.html.jinja", "pictures/svg.py"])
def test_the_report_touches_no_other_stage(file: str) -> None:
    assert rerun_by(f"pipeline/report/{file}") == {"report"}


def test_the_code_of_the_audit_trains_nothing() -> None:
    # Preparing again gives the same bytes, of which training stages name the splits and the card alone.
    assert rerun_by("pipeline/preparation/audit.py") == {"prepare"}
    for stage in ("train_teacher", "teach", "distill"):
        assert "data/prepared" not in paths(stage, "deps")
        assert "data/prepared/audit.json" not in paths(stage, "deps")


def test_what_editors_and_python_leave_in_a_room_is_no_dependency() -> None:
    ignored = (ROOT / ".dvcignore").read_text(encoding="utf-8").split()
    assert {"__pycache__/", "*.pyc", "*~", "*.sw?", ".DS_Store"} <= set(ignored)


@pytest.mark.parametrize("stage", LISTED)
def test_a_stage_that_builds_a_network_depends_on_the_code_of_its_family(stage: str) -> None:
    names = ("model.safetensors", "artifacts/students", "artifacts/start")
    weights = [path for path in paths(stage, "deps", "outs") if path.endswith(names)]
    if NETWORKS not in needed(stage):
        return
    roles = {
        "teacher": ("artifacts/teacher/",),
        "student": ("artifacts/students", "artifacts/chosen/", "artifacts/start"),
    }
    expected = {role for role, folders in roles.items() if any(path.startswith(folders) for path in weights)}
    assert expected, f"stage {stage} can build networks, but neither reads nor writes a model.safetensors"
    came = {role for role in roles if f"artifacts/preflight/{role}.json" in paths(stage, "deps")}
    assert came == expected, (
        f"dvc.yaml, stage {stage}, handles the weights of {' and '.join(sorted(expected))}; so its deps should list "
        + " and ".join(f"artifacts/preflight/{role}.json" for role in sorted(expected))
        + f", and of these files they list {' and '.join(sorted(came)) or 'none'}"
    )


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_only_params_that_exist(stage: str) -> None:
    keys = DVC[stage].get("params", [])
    for index, key in enumerate(keys):
        line = keys.lc.item(index)[0] + 1
        for item in items(stage):
            section: Any = PARAMS
            for name in resolve(key, item).split("."):
                assert isinstance(section, dict), f"dvc.yaml line {line}: {key} goes below a value"
                assert name in section, f"dvc.yaml line {line}: params.yaml has no {resolve(key, item)}"
                section = section[name]


@pytest.mark.parametrize("stage", STAGES)
def test_preflight_refuses_params_that_lack_what_a_stage_lists(stage: str) -> None:
    # A method that is not listed has no stage, and lacks nothing.
    for key in (resolve(key, {}) for key in DVC[stage].get("params", []) if "item." not in key):
        raw = copy.deepcopy(PARAMS)
        *sections, last = key.split(".")
        del reduce(dict.__getitem__, sections, raw)[last]
        with pytest.raises(ParamsError, match=rf"lacks .*\b{re.escape(key)}\b"):
            parameters.check_complete(reading.parse(parameters.Params, raw, "", "params.yaml"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_given_only_paths_that_it_declares(stage: str) -> None:
    known = paths(stage, "deps", "outs", "metrics", "plots")
    for path in re.findall(r"(?:artifacts|data|report)/\S*", DVC[stage]["cmd"]):
        # A folder counts as declared by what the stage reads or writes in it, as a file by the folder it lies in.
        assert any(f"{other}/".startswith(f"{path}/") or path.startswith(f"{other}/") for other in known), (
            f"dvc.yaml, stage {stage}: its command names {path}, its deps and outs do not"
        )


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_reads_another_one_makes(stage: str) -> None:
    made = {path for other in STAGES for path in paths(other, "outs", "metrics", "plots")}
    for path in paths(stage, "deps"):
        if path.startswith(("artifacts/", "data/", "report/")):
            inside = any(f"{path}/".startswith(f"{other}/") or other.startswith(f"{path}/") for other in made)
            assert inside, f"dvc.yaml, stage {stage}: no stage makes {path}"


def sources() -> list[Path]:
    return sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py"))


def test_only_the_registry_imports_by_name() -> None:
    """Any other import by name would be one that no closure shows; apart.py finds what its caller has imported."""
    for path in sources():
        if path != ROOT / "pipeline" / "system" / "registry.py":
            text = path.read_text(encoding="utf-8")
            assert "import_module(" not in text, path
            assert "resolve_name(" not in text or path == ROOT / "serve" / "timing" / "apart.py", path
            assert "__import__(" not in text, path


def test_imports_are_absolute() -> None:
    """closure() reads no relative ones."""
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}:{node.lineno}"


def test_init_files_hold_a_docstring_alone() -> None:
    """They are in no closure, so they may decide nothing. That of stages says what to do outside of the environment."""
    for path in sources():
        if path.name == "__init__.py" and path != ROOT / "stages" / "__init__.py":
            body = ast.parse(path.read_text(encoding="utf-8")).body
            assert [type(node) for node in body] == [ast.Expr], path


def test_params_yaml_is_valid_with_every_method_and_source_it_names() -> None:
    settings = parameters.load(ROOT / "params.yaml")
    parameters.check_all(settings)
    assert set(settings.model_dump()) == set(PARAMS), "params.yaml shows every section"
