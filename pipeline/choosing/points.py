"""What was measured of the student that an experiment deploys, from the files that its stages left.

Test scores stay out, because one chooses by this.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from pipeline.data.card import DataCard
from pipeline.evaluation.choice import Choice
from pipeline.evaluation.comparison import wilson
from pipeline.report.artefacts.measured import TEACHER_ONNX, Latency, Ratio
from pipeline.report.artefacts.records import Deployed, Quantization
from pipeline.report.artefacts.shipped import shipped
from pipeline.system.errors import PupilError

LATENCY, QUANTIZATION, DEPLOYED = "deploy/latency.json", "deploy/quantization.json", "deploy/deployed.json"
CHOSEN, TAUGHT, CARD = "chosen/student.json", "teacher/evaluation.json", "card.json"
STAGES = {
    TAUGHT: "evaluate_teacher",
    CHOSEN: "choose",
    QUANTIZATION: "quantize",
    DEPLOYED: "ship",
    LATENCY: "benchmark",
    CARD: "prepare",
}
"""What makes a student a point, by file, and the stage that writes it. `Places` says where the files are."""
WORKSPACE = "workspace"


class Places(NamedTuple):
    """Folders of a project, below its root."""

    artifacts: str
    data: str

    def path(self, file: str) -> str:
        """Where a file of `STAGES`, or another one among the artifacts, is."""
        return f"{self.data if file == CARD else self.artifacts}/{file}"


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
    val_interval: tuple[float, float]
    """95 %, by the number of validation images (Wilson)."""
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
        return max(self.names, key=lambda name: name != WORKSPACE)


def measured(name: str, texts: Mapping[str, str]) -> Student:
    """The student of the experiment `name`, from what each file of `STAGES` holds.

    Raises PupilError saying why these files make no point, and ValidationError where one is of another version.
    """
    latency = Latency.model_validate_json(texts[LATENCY])
    quantization = Quantization.model_validate_json(texts[QUANTIZATION])
    card = DataCard.model_validate_json(texts[CARD])
    chosen = TypeAdapter(Choice).validate_json(texts[CHOSEN])
    taught = TypeAdapter(dict[str, Any]).validate_json(texts[TAUGHT])
    batch = next((it for it in latency.batches if it.batch_size == 1), None)
    if batch is None:
        raise PupilError("was not timed with one image a call; add 1 to benchmark.batch_sizes.")
    if card.train_includes_val:
        raise PupilError("was trained on its validation images (data.train_includes_val).")
    ships = shipped(latency, quantization, Deployed.model_validate_json(texts[DEPLOYED]))
    on_val = next(it.val for it in quantization.students.values() if it.file == ships.file)
    if on_val is None:
        raise PupilError(f"{ships.file} has no validation score; run stage quantize.")
    images, p50_ms = card.counts["val"], {who: timing.p50_ms for who, timing in batch.candidates.items()}
    low, high = wilson(round(on_val.top1 * images / 100), images) or (0.0, 100.0)
    return Student(
        names=(name,),
        method=chosen.method,
        seed=chosen.seed,
        number_format=ships.number_format,
        val_top1=on_val.top1,
        val_interval=(low, high),
        p50_ms=p50_ms[ships.candidate],
        times_as_fast=batch.teacher_over(ships.candidate),
        size_bytes=ships.size_bytes,
        machine=_machine(latency),
        val_images=card.sha256["val/images.npy"],
        teacher=Teacher(taught["arch"], taught["val"]["top1"], p50_ms[TEACHER_ONNX], ships.teacher_size_bytes),
    )


def _machine(latency: Latency) -> str:
    gpus = latency.machine.gpus
    where = gpus[0] if latency.device != "cpu" and gpus else latency.machine.cpu
    return f"{where}, {latency.threads} thread{'s' if latency.threads > 1 else ''}"
