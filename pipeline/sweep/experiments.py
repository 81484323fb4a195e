"""Which experiments of DVC are finished, and have a student that was deployed and timed.

What DVC says of experiments goes in as `dvc exp show --json` has it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from pydantic import ValidationError

from pipeline.sweep.points import CARD, CHOSEN, LATENCY, QUANTIZATION, STAGES, WORKSPACE, Student, measured
from pipeline.system.errors import PupilError

_CHAIN = (
    "artifacts/teacher/model.safetensors",
    "artifacts/chosen/model.safetensors",
    "artifacts/deploy/student.onnx",
    "artifacts/deploy/teacher.onnx",
    "artifacts/deploy/quantized",
)
"""From the networks to their latency: where DVC recorded another file as read than as written, a stage is missing."""
_FOLDERS = {CARD: "data/prepared"}
"""Outputs of DVC that are folders, by the file in them that is wanted."""

Read = Callable[[str, str], str | None]
"""(revision, path) -> what the file holds there; None where DVC does not have it."""


class Found(NamedTuple):
    """Students to compare, and of each other experiment one line that says what is missing."""

    students: list[Student]
    left_out: list[str]


def find(shown: Sequence[Mapping[str, Any]], read: Read) -> Found:
    """Every finished experiment of `shown` (`dvc exp show --json`: workspace and commits, each with experiments).

    Experiments that share one measurement, because nothing that it depends on differs, become one student.
    """
    students: dict[tuple[str, str], Student] = {}
    left_out = []
    for name, state, executor in _entries(shown):
        try:
            texts = _texts(state, executor, read)
            key = texts[LATENCY], texts[QUANTIZATION]
            if key in students:
                students[key] = replace(students[key], names=(*students[key].names, name))
            else:
                students[key] = measured(name, texts)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            left_out.append(f"{name}: its {error.title} is not of this version ({where}: {first['msg']}).")
        except PupilError as error:
            left_out.append(f"{name}: {error}")
    return Found(list(students.values()), left_out)


def _entries(shown: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any], str]]:
    """Name, state and what DVC's executor says ('' if nothing) of workspace, commits and their experiments."""
    found = []
    for baseline in shown:
        found.append((baseline["name"] or _short(baseline["rev"]), baseline, ""))
        for experiment in baseline["experiments"] or []:
            tip = experiment["revs"][0]
            name = experiment["name"] or tip["name"] or _short(tip["rev"])
            found.append((name, tip, (experiment["executor"] or {}).get("state", "")))
    return found


def _short(revision: str) -> str:
    return revision if revision == WORKSPACE else revision[:7]


def _texts(state: Mapping[str, Any], executor: str, read: Read) -> dict[str, str]:
    """What each file of `STAGES` holds. Raises PupilError saying why there is no student that was timed."""
    if executor in ("queued", "running", "failed"):
        raise PupilError(f"{executor}, so nothing was measured (`dvc queue status`).")
    if state["data"] is None:
        raise PupilError(f"DVC cannot read it ({(state['error'] or {}).get('msg', 'no reason given')}).")
    _check_whole(state["data"])
    texts = {path: read(state["rev"], path) for path in STAGES}
    if missing := [path for path, text in texts.items() if text is None]:
        raise PupilError(f"DVC has no longer {', '.join(missing)}; try `dvc fetch --all-commits`.")
    return {path: text for path, text in texts.items() if text is not None}


def _check_whole(data: Mapping[str, Any]) -> None:
    """Refuse an experiment that stopped before its student was timed, though an earlier student may have been."""
    outs = {path: out["hash"] for path, out in data["outs"].items()}
    deps = {path: dep["hash"] for path, dep in data["deps"].items()}
    values = {path: metrics.get("data") for path, metrics in data["metrics"].items()}
    if missing := [path for path in STAGES if not (outs.get(_FOLDERS.get(path, path)) or values.get(path))]:
        stages = ", ".join(STAGES[path] for path in missing)
        raise PupilError(f"has no {', '.join(missing)}; stages to run: {stages}.")
    chosen = values[CHOSEN]
    trained = f"artifacts/students/{chosen['method']}/{chosen['seed']}/model.safetensors"
    changed = [path for path in _CHAIN if deps.get(path) != outs.get(path)]
    if outs.get(trained) != outs.get("artifacts/chosen/model.safetensors"):
        changed.append(trained)
    if changed:
        raise PupilError(f"its latency is of an earlier {changed[0]}; run the stages up to benchmark.")
