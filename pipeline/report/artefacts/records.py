"""The JSON files that other stages leave behind, as typed, frozen records.

Only what the report shows is named here; any other key in a file is passed over, so that a stage may write more.
"""

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.settings.section import Positive
from pipeline.system.errors import PupilError


class Record(BaseModel):
    """Base of everything the report reads or aggregates: frozen, finite numbers, unknown keys passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, use_attribute_docstrings=True)


R = TypeVar("R", bound=Record)


class Spread(Record):
    """A value over n seeds; std is the sample standard deviation, None (unknown) for one seed."""

    mean: float
    std: float | None
    n: int


class Scores(Record):
    """One network on the test split."""

    top1: float
    """Percent, as top5 and top1_agreement."""
    top5: float
    nll: float
    """Nats, as kl_from_teacher."""
    ece: float
    """In [0, 1]."""
    top1_agreement: float | None = None
    """None for the teacher itself, as kl_from_teacher."""
    kl_from_teacher: float | None = None


class Evaluation(Record):
    """evaluation.json of a teacher or of one student."""

    arch: str
    method: str | None
    seed: int | None
    test: Scores
    top1_interval: tuple[float, float]
    """95 % bootstrap over images, in percent."""
    images: Positive
    num_parameters: Positive
    macs: Positive
    """For one image."""
    size_bytes: int
    """Of the safetensors file."""


class Validation(Record):
    """Validation top-1 in percent, of one epoch or of weights that were taken."""

    val_top1: float


class EpochScores(Record):
    """What the learning curves need of an epoch's validation."""

    top1: float


class Epoch(Record):
    """One line of history."""

    epoch: int
    """Counted from 1."""
    val: EpochScores


class History(Record):
    """history.json: `last` and `best` of a trained network, `taken` of weights from a file, which have no epochs."""

    last: Validation | None = None
    best: Validation | None = None
    taken: Validation | None = None
    epochs: tuple[Epoch, ...] = ()

    @model_validator(mode="after")
    def _trained_or_taken(self) -> "History":
        if self.taken is None and (self.last is None or self.best is None):
            raise ValueError("neither 'last' and 'best' nor 'taken' is there")
        return self


class Chosen(Record):
    """artifacts/chosen/student.json: the student that ships."""

    method: str
    seed: int
    val_top1: float
    """Percent, of the epoch that ships."""
    val_seen_in_training: bool = False
    of_methods: Positive
    """How many methods it was chosen from by that score; 1 where params.yaml names it."""
    of_seeds: Positive


class ParityRecord(Record):
    """torch against the exported file at one batch size."""

    batch_size: int
    max_probability_error: float
    max_logit_error: float
    top1_equal: bool


class Parity(Record):
    """parity.json of both exported files."""

    student: tuple[ParityRecord, ...]
    teacher: tuple[ParityRecord, ...]


class Smaller(Record):
    """One student file on one split."""

    top1: float
    float32_agreement: float
    """Percent of images with the top-1 of the student in float32."""
    sqnr_db: float | None
    """Of logits; None without noise."""


class Difference(Record):
    """Of top-1 on the test split, student minus teacher, in points."""

    difference: float
    interval: tuple[float, float]
    """95 %, paired bootstrap over images."""


class StudentFile(Record):
    """One form of the deployed student, which the gate let pass or did not."""

    file: str
    """Below artifacts/deploy."""
    accepted: bool
    reason: str
    validation_tells: bool = True
    """False: the validation images could not tell, and agreement with float32 decided."""
    val: Smaller | None
    """None where its logits are no numbers, as test."""
    test: Smaller | None
    against_teacher: Difference | None
    """None likewise."""
    size_bytes: int | None
    """None where the file could not be made."""


class Quantization(Record):
    """quantization.json."""

    val_seen_in_training: bool = False
    students: Annotated[dict[str, StudentFile], Field(min_length=1)]
    """float32 first."""


class Deployed(Record):
    """deployed.json."""

    file: str
    """Below artifacts/deploy."""
    reason: str


def read(model: type[R], path: Path, stage: str) -> R:
    """Read one artefact. Raises PupilError naming the file and the DVC stage that writes it."""
    again = f"Stage {stage} writes it: run `dvc repro {stage}`."
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise PupilError(f"{path} could not be read ({error.strerror}). {again}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise PupilError(f"{path} is not what the report expects: {where}: {first['msg']}. {again}") from error
