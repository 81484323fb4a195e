"""Which experiments of DVC are finished, and what was measured of the student that each deploys.

What DVC says of experiments goes in as `dvc exp show --json` has it. Test scores stay out, because one chooses by this.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from pipeline.data.card import DataCard
from pipeline.evaluation.choice import Choice
from pipeline.evaluation.comparison import Z
from pipeline.report.artefacts.measured import TEACHER, Batch, Latency, Ratio, parts
from pipeline.report.artefacts.records import Quantization
from pipeline.report.artefacts.shipped import shipped
from pipeline.system.errors import PupilError

LATENCY, QUANTIZATION = "artifacts/deploy/latency.json", "artifacts/deploy/quantization.json"
CHOSEN, TAUGHT, CARD = "artifacts/chosen/student.json", "artifacts/teacher/evaluation.json", "data/prepared/card.json"
_STAGES = {
    TAUGHT: "evaluate_teacher",
    CHOSEN: "choose",
    QUANTIZATION: "quantize",
    LATENCY: "benchmark",
}
"""What makes a student a point, by file, and the stage that writes it."""
_WORKSPACE = "workspace"
_CHAIN = (
    "artifacts/teacher/model.safetensors",
    "artifacts/chosen/model.safetensors",
    "artifacts/deploy/student.onnx",
    "artifacts/deploy/teacher.onnx",
    "artifacts/deploy/quantized",
)
"""From the networks to their latency: where DVC recorded another file as read than as written, a stage is missing."""

Read = Callable[[str, str], str | None]
"""(revision, path) -> what the file holds there; None where DVC does not have it."""


class Teacher(NamedTuple):
    """The teacher in ONNX Runtime, in the run that timed a student."""

    arch: str
    val_top1: float
    """Percent."""
    p50_ms: float
    """Of a call with one image."""
    size_bytes: int


@dataclass(frozen=True)
class Student:
    """The file that an experiment deploys, as measured there."""

    names: tuple[str, ...]
    """Of all experiments that have this very measurement."""
    method: str
    seed: int
    number_format: str
    """fp32, int8 or fp16."""
    val_top1: float
    """Percent, of this file."""
    margin: float
    """Half of the 95 % interval that so many validation images leave, in points."""
    p50_ms: float
    """Of a call with one image."""
    times_as_fast: Ratio
    """As the teacher in ONNX Runtime, in the same run."""
    size_bytes: int
    machine: str
    """Processor or GPU, and threads."""
    val_images: str
    """Checksum of the validation images."""
    teacher: Teacher

    @property
    def title(self) -> str:
        """The experiment's name, before that of the workspace, which changes."""
        return max(self.names, key=lambda name: name != _WORKSPACE)


class Found(NamedTuple):
    """Students to compare, and of each other experiment one line that says what is missing."""

    students: list[Student]
    left_out: list[str]


class _NotThereError(PupilError):
    """Why an experiment is no point."""


def find(shown: Sequence[Mapping[str, Any]], read: Read) -> Found:
    """Every finished experiment of `shown` (`dvc exp show --json`: workspace and commits, each with experiments).

    Experiments that share one measurement become one student.
    """
    students: dict[str, Student] = {}
    left_out = []
    for name, state, executor in _entries(shown):
        try:
            key, student = _student(name, state, executor, read)
        except _NotThereError as why:
            left_out.append(str(why))
            continue
        known = students.get(key)
        names = (*known.names, name) if known else (name,)
        students[key] = Student(**{**vars(student), "names": names})
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
    return revision if revision == _WORKSPACE else revision[:7]


def _student(name: str, state: Mapping[str, Any], executor: str, read: Read) -> tuple[str, Student]:
    """A student and what tells its measurement from others. Raises _NotThereError with the line that says why not."""
    if executor in ("queued", "running", "failed"):
        raise _NotThereError(f"{name}: {executor}, so nothing was measured (`dvc queue status`).")
    if state["data"] is None:
        raise _NotThereError(f"{name}: DVC cannot read it ({(state['error'] or {}).get('msg', 'no reason given')}).")
    _check_whole(name, state["data"])
    texts = {path: read(state["rev"], path) for path in (*_STAGES, CARD)}
    if missing := [path for path, text in texts.items() if text is None]:
        raise _NotThereError(f"{name}: DVC has no longer {', '.join(missing)}; try `dvc fetch --all-commits`.")
    try:
        return texts[LATENCY] or "", _measured(name, {path: text or "" for path, text in texts.items()})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise _NotThereError(f"{name}: its {error.title} is not of this version ({where}: {first['msg']}).") from error


def _check_whole(name: str, data: Mapping[str, Any]) -> None:
    """Refuse an experiment that stopped before its student was timed, though an earlier student may have been."""
    outs = {path: out["hash"] for path, out in data["outs"].items()}
    deps = {path: dep["hash"] for path, dep in data["deps"].items()}
    values = {path: metrics.get("data") for path, metrics in data["metrics"].items()}
    if missing := [path for path in _STAGES if outs.get(path) is None and not values.get(path)]:
        stages = ", ".join(_STAGES[path] for path in missing)
        raise _NotThereError(f"{name}: has no {', '.join(missing)}; stages to run: {stages}.")
    chosen = values[CHOSEN]
    trained = f"artifacts/students/{chosen['method']}/{chosen['seed']}/model.safetensors"
    changed = [path for path in _CHAIN if deps.get(path) != outs.get(path)]
    if changed or outs.get(trained) != outs.get("artifacts/chosen/model.safetensors"):
        what = changed[0] if changed else trained
        raise _NotThereError(f"{name}: its latency is of an earlier {what}; run the stages up to benchmark.")


def _measured(name: str, texts: Mapping[str, str]) -> Student:
    latency = Latency.model_validate_json(texts[LATENCY])
    quantization = Quantization.model_validate_json(texts[QUANTIZATION])
    card = DataCard.model_validate_json(texts[CARD])
    chosen = TypeAdapter(Choice).validate_json(texts[CHOSEN])
    taught = TypeAdapter(dict[str, Any]).validate_json(texts[TAUGHT])
    batch = next((it for it in latency.batches if it.batch_size == 1), None)
    if batch is None:
        raise _NotThereError(f"{name}: was not timed with one image a call; add 1 to benchmark.batch_sizes.")
    if card.train_includes_val:
        raise _NotThereError(f"{name}: was trained on its validation images (data.train_includes_val).")
    try:
        ships = shipped(latency, quantization)
    except PupilError as error:
        raise _NotThereError(f"{name}: {error}") from error
    on_val = next(it.val for it in quantization.students.values() if it.file == ships.file)
    if on_val is None:
        raise _NotThereError(f"{name}: {ships.file} has no validation score; run stage quantize.")
    share, images = on_val.top1 / 100, card.counts["val"]
    return Student(
        names=(name,),
        method=chosen.method,
        seed=chosen.seed,
        number_format=parts(ships.candidate)[1],
        val_top1=on_val.top1,
        margin=100 * Z * math.sqrt(share * (1 - share) / images),
        p50_ms=batch.candidates[ships.candidate].p50_ms,
        times_as_fast=batch.teacher_over(ships.candidate),
        size_bytes=ships.size_bytes,
        machine=_machine(latency),
        val_images=card.sha256["val/images.npy"],
        teacher=_teacher(batch, taught, ships.teacher_size_bytes),
    )


def _machine(latency: Latency) -> str:
    gpus = latency.machine.gpus
    where = gpus[0] if latency.device != "cpu" and gpus else latency.machine.cpu
    return f"{where}, {latency.threads} thread{'s' if latency.threads > 1 else ''}"


def _teacher(batch: Batch, taught: Mapping[str, Any], size_bytes: int) -> Teacher:
    return Teacher(taught["arch"], taught["val"]["top1"], batch.candidates[TEACHER].p50_ms, size_bytes)
