"""analysis.json of stage evaluate and comparison.json of stage compare as typed, frozen records."""

from typing import Annotated

from pydantic import Field

from pipeline.report.artefacts.records import Record

Interval = tuple[float, float]
"""Low and high end of a 95 % interval."""


class ClassScores(Record):
    """One class of the test split; top-1 and agreement in percent, None where it has no images there."""

    label: str
    images: int
    top1: float | None
    interval: Interval | None
    """Wilson's."""
    teacher_top1: float | None = None
    agreement: float | None = None
    """Share of its images of which student and teacher say the same."""


class Confusion(Record):
    """One class taken for another."""

    true: str
    predicted: str
    images: int
    share: float
    """Of the true class, in percent."""


class ReliabilityBin(Record):
    """Answers of one range of confidence; confidence and accuracy in [0, 1], None where it holds no image."""

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


class AgainstTeacher(Record):
    """How many test images student and teacher get right, and positions of some of which only one does."""

    both: int
    only_student: int
    only_teacher: int
    neither: int
    only_student_positions: tuple[int, ...]
    only_teacher_positions: tuple[int, ...]


class Mistake(Record):
    """A wrong answer given with much confidence, in [0, 1]."""

    position: int
    """In the test split."""
    true: str
    predicted: str
    confidence: float


class Analysis(Record):
    """analysis.json of one network."""

    classes: Annotated[tuple[ClassScores, ...], Field(min_length=1, exclude=True)]
    confusion: tuple[tuple[int, ...], ...] | None = Field(exclude=True)
    """(K, K) images, true classes in rows, predicted ones in columns; None where classes are too many for a matrix."""
    largest_confusions: tuple[Confusion, ...]
    reliability: tuple[ReliabilityBin, ...]
    against_teacher: AgainstTeacher | None = None
    mistakes: tuple[Mistake, ...] = Field(exclude=True)

    def ranked(self) -> list[tuple[float, ClassScores]]:
        """Top-1 and class, the lowest first, of the classes that have images."""
        return sorted(((it.top1, it) for it in self.classes if it.top1 is not None), key=lambda pair: pair[0])


class Pair(Record):
    """One student against vanilla of the same seed, or against the teacher, image by image."""

    method: str
    seed: int
    against: str
    """vanilla or teacher."""
    only_this: int
    """Images that only this student gets right."""
    only_other: int
    difference: float
    """Of top-1, in points: this minus the other."""
    interval: Interval
    """Paired bootstrap over images."""
    mcnemar_p: Annotated[float, Field(ge=0, le=1)]


class OverSeeds(Record):
    """A method against vanilla or the teacher, over all seeds."""

    method: str
    against: str
    difference: float
    """Of mean top-1, in points."""
    interval: Interval
    seeds: int


class Comparison(Record):
    """comparison.json."""

    baseline: str | None
    """None where vanilla was not trained."""
    pairs: tuple[Pair, ...]
    methods: tuple[OverSeeds, ...]

    def pair(self, method: str | None, seed: int | None, against: str) -> Pair | None:
        """Of one student; None where it was not compared."""
        wanted = (method, seed, against)
        return next((it for it in self.pairs if (it.method, it.seed, it.against) == wanted), None)

    def over_seeds(self, method: str, against: str) -> OverSeeds | None:
        """Of a method; None where it was not compared."""
        return next((it for it in self.methods if (it.method, it.against) == (method, against)), None)
