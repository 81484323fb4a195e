"""What the report shows, as one frozen structure; results.json is its dump, less what other artefacts hold in full."""

from pydantic import Field

from pipeline.data.card import DataCard
from pipeline.report.artefacts.analysed import Analysis, Comparison, Interval
from pipeline.report.artefacts.audited import Audit, Png
from pipeline.report.artefacts.measured import Batch, Latency, Ratio
from pipeline.report.artefacts.records import Chosen, Difference, Evaluation, Parity, Quantization, Record, Spread
from pipeline.report.attention import Shown


class Point(Record):
    """Validation top-1 in percent after one epoch, over the seeds."""

    epoch: int
    top1: Spread


class Gain(Record):
    """Difference of two mean top-1, in points."""

    points: float
    tie: bool
    interval: Interval | None
    """Bootstrap over images, and seeds where there are several; None where nothing was compared image by image."""


class Network(Record):
    """The teacher, or one method over all of its seeds."""

    name: str
    """The method, or 'teacher'."""
    arch: str
    seeds: tuple[int | None, ...]
    """None: weights that were taken from a file."""
    test: dict[str, Spread]
    """By score: top1, top5, top1_agreement in percent, nll and kl_from_teacher in nats, ece in [0, 1]."""
    val_last: Spread
    """Validation top-1 in percent after the last epoch; of weights that were taken, theirs."""
    val_best: Spread | None
    """Of each seed's best epoch."""
    gain: Gain | None
    """Over the method 'vanilla', where that was run."""
    published: float | None
    """Test top-1 in percent that others printed for this pair of networks and this method."""
    published_augmented: bool
    """They used other views of the images than crops and flips, so that the figure must not be ranked with the rest."""
    ties_with_best: bool
    """It is the best student by mean test top-1, or ties with it."""
    deployed: bool
    """One of its seeds is the student that ships."""
    num_parameters: int
    macs: int
    size_bytes: int
    curve: tuple[Point, ...]


class Shipped(Record):
    """The file that ships on the measured device."""

    file: str
    """Below artifacts/deploy."""
    reason: str
    """Why this one: what follows "because"."""
    number_format: str
    """fp32, int8 or fp16."""
    candidate: str
    """What latency.json calls it."""
    size_bytes: int
    teacher_size_bytes: int
    """Of the teacher in ONNX."""
    top1: float
    """Test split, in percent."""
    against_teacher: Difference


class Example(Record):
    """One test image and what the networks say of it."""

    position: int
    true: str
    student: str
    teacher: str
    confidence: float | None
    """Of the student's answer, in [0, 1], where it was kept."""
    png: Png


class Examples(Record):
    """Test images worth a look."""

    only_student: tuple[Example, ...]
    """That the student gets right and the teacher does not."""
    only_teacher: tuple[Example, ...]
    mistakes: tuple[Example, ...]
    """Where the student is wrong with most confidence."""


class Commit(Record):
    """The code that made the page."""

    sha: str
    edited: bool
    """Files that git knows were edited since."""


class Results(Record):
    """All that the page shows."""

    teacher: Network
    methods: tuple[Network, ...]
    teacher_evaluation: Evaluation
    deployed: Evaluation
    """The very student that ships, in float32; not the mean of its method."""
    chosen: Chosen
    shipped: Shipped
    comparison: Comparison
    analysis: Analysis
    """Of the student that ships, in float32."""
    examples: Examples = Field(exclude=True)
    attention: Shown = Field(exclude=True)
    latency: Latency
    parity: Parity
    quantization: Quantization
    data: DataCard
    student_px: int
    """Height and width of the images that the students see."""
    audit: Audit
    published_by: tuple[str, ...]
    """A sentence for each source of published figures."""
    student_epochs: int
    select: str
    """Which epoch of a student ships: last, or best on validation."""
    seeds: dict[str, tuple[int, ...]]
    """What drew what: data, teacher, distill, benchmark."""
    params_sha256: str
    """Of params.yaml."""
    commit: Commit | None
    """None where git does not tell."""

    def networks(self) -> tuple[Network, ...]:
        """The teacher first, then the methods in the order of params.yaml."""
        return (self.teacher, *self.methods)

    def untimed(self) -> tuple[Network, ...]:
        """Methods whose student is another network than the deployed one, so that its latency says nothing of them."""
        return tuple(network for network in self.methods if not self.shares_latency(network))

    def shares_latency(self, network: Network) -> bool:
        """Whether `network` computes what the deployed student computes, weights apart."""
        shipped = self.deployed
        return (network.arch, network.num_parameters, network.macs) == (
            shipped.arch,
            shipped.num_parameters,
            shipped.macs,
        )

    def speed(self, batch: Batch) -> Ratio:
        """How many times as long the teacher takes as the file that ships, both in one runtime."""
        return batch.teacher_over(self.shipped.candidate)
