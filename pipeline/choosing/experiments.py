"""Which experiments of DVC are finished, and have a student that was deployed and timed.

What DVC says of experiments goes in as `dvc exp show --json` has it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from pydantic import ValidationError

from pipeline.choosing.points import (
    CARD,
    CHOSEN,
    DEPLOYED,
    LATENCY,
    QUANTIZATION,
    STAGES,
    WORKSPACE,
    Places,
    Student,
    measured,
)
from pipeline.system.errors import PupilError

_CHOSEN_MODEL = "chosen/model.safetensors"
_CHAIN = (
    "teacher/model.safetensors",
    _CHOSEN_MODEL,
    "deploy/student.onnx",
    "deploy/teacher.onnx",
    "deploy/quantized",
)
"""From the networks to their latency: where DVC recorded another file as read than as written, a stage is missing."""
Read = Callable[[str, str], str | None]
"""(revision, path) -> what the file holds there; None where DVC does not have it."""


class Found(NamedTuple):
    """Students to compare, and of each other experiment one line that says what is missing."""

    students: list[Student]
    left_out: list[str]


def find(shown: Sequence[Mapping[str, Any]], read: Read, places: Places) -> Found:
    """Every finished experiment of `shown` (`dvc exp show --json`: workspace and commits, each with experiments).

    Experiments that share one measurement, because nothing that it depends on differs, become one student.
    """
    students: dict[tuple[str, ...], Student] = {}
    left_out = []
    for name, state, executor in _entries(shown):
        try:
            texts = _texts(state, executor, read, places)
            key = texts[LATENCY], texts[QUANTIZATION], texts[DEPLOYED]
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


def _texts(state: Mapping[str, Any], executor: str, read: Read, places: Places) -> dict[str, str]:
    """What each file of `STAGES` holds. Raises PupilError saying why there is no student that was timed."""
    if executor in ("queued", "running", "failed"):
        raise PupilError(f"{executor}, so nothing was measured (`dvc queue status`).")
    if state["data"] is None:
        raise PupilError(f"DVC cannot read it ({(state['error'] or {}).get('msg', 'no reason given')}).")
    _check_whole(state["data"], places)
    texts = {file: read(state["rev"], places.path(file)) for file in STAGES}
    if missing := [places.path(file) for file, text in texts.items() if text is None]:
        raise PupilError(f"DVC no longer has {', '.join(missing)}; try `dvc fetch --all-commits`.")
    return {file: text for file, text in texts.items() if text is not None}


def _check_whole(data: Mapping[str, Any], places: Places) -> None:
    """Refuse an experiment that stopped before its student was timed, though an earlier student may have been."""
    outs = {path: out["hash"] for path, out in data["outs"].items()}
    deps = {path: dep["hash"] for path, dep in data["deps"].items()}
    values = {path: metrics.get("data") for path, metrics in data["metrics"].items()}
    # DVC knows the data as a folder.
    made = {file: outs.get(places.data if file == CARD else places.path(file)) for file in STAGES}
    if missing := [file for file in STAGES if not (made[file] or values.get(places.path(file)))]:
        named, stages = (", ".join(map(of, missing)) for of in (places.path, STAGES.__getitem__))
        raise PupilError(f"has no {named}; stages to run: {stages}.")
    chosen = values[places.path(CHOSEN)]
    trained = places.path(f"students/{chosen['method']}/{chosen['seed']}/model.safetensors")
    changed = [path for path in map(places.path, _CHAIN) if deps.get(path) != outs.get(path)]
    if outs.get(trained) != outs.get(places.path(_CHOSEN_MODEL)):
        changed.append(trained)
    if changed:
        raise PupilError(f"its latency is of an earlier {changed[0]}; run the stages up to benchmark.")
