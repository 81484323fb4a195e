"""From the artefacts of a run to one frozen structure: every method over its seeds, the teacher, the deployed student.

What is shown is what params.yaml lists; other students that lie in the folder are not looked at.
"""

from collections.abc import Sequence
from pathlib import Path

from pipeline import params as parameters
from pipeline.data import card as cards
from pipeline.files import sha256
from pipeline.metrics import mean_and_spread
from pipeline.report.artefacts import Evaluation, History, Parity, Quantization, Record, Scores, read
from pipeline.report.measured import Latency

TIE_POINTS = 0.5
BASELINE = "vanilla"


class Spread(Record):
    """A value over n seeds; std is the sample standard deviation, None (unknown) for one seed."""

    mean: float
    std: float | None
    n: int


class Point(Record):
    """Validation top-1 in percent after one epoch, over the seeds."""

    epoch: int
    top1: Spread


class Gain(Record):
    """Difference of two mean top-1, in points."""

    points: float
    tie: bool


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
    ties_with_best: bool
    """It is the best student by mean test top-1, or ties with it."""
    deployed: bool
    """One of its seeds is the student that ships."""
    num_parameters: int
    macs: int
    size_bytes: int
    curve: tuple[Point, ...]


class Results(Record):
    """All that the page shows."""

    teacher: Network
    methods: tuple[Network, ...]
    teacher_evaluation: Evaluation
    deployed: Evaluation
    """The very student that ships, not the mean of its method."""
    latency: Latency
    parity: Parity
    quantization: Quantization
    data: cards.DataCard
    student_epochs: int
    select: str
    """Which epoch of a student ships: last, or best on validation."""
    seeds: dict[str, tuple[int, ...]]
    """What drew what: data, teacher, distill, benchmark."""
    params_sha256: str
    """Of params.yaml."""

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


def collect(params: Path, students: Path, teacher: Path, deploy: Path, data: Path) -> Results:
    """Read a run: METHOD/SEED folders below `students`, the folders of teacher, deployment and prepared data.

    Raises PupilError naming the first file that is missing or torn, and the stage that writes it.
    """
    settings = parameters.load(params)
    distill, shipped = settings.distill, settings.deploy
    runs = {method: [_student(students, method, seed) for seed in distill.seeds] for method in distill.methods}
    teacher_run = (
        read(Evaluation, teacher / "evaluation.json", "evaluate_teacher"),
        read(History, teacher / "history.json", "train_teacher"),
    )
    top1 = {method: _top1(run) for method, run in runs.items()}
    best = max(top1.values(), key=lambda spread: spread.mean)
    networks = [
        _network(
            method,
            run,
            gain=gain(top1[method], top1[BASELINE]) if BASELINE in runs and method != BASELINE else None,
            ties_with_best=gain(top1[method], best).tie,
            deployed=method == shipped.method,
        )
        for method, run in runs.items()
    ]
    return Results(
        teacher=_network("teacher", [teacher_run], gain=None, ties_with_best=False, deployed=False),
        methods=tuple(networks),
        teacher_evaluation=teacher_run[0],
        deployed=_student(students, shipped.method, shipped.seed)[0],
        latency=read(Latency, deploy / "latency.json", "benchmark"),
        parity=read(Parity, deploy / "parity.json", "export"),
        quantization=read(Quantization, deploy / "quantization.json", "quantize"),
        data=cards.load(data),
        student_epochs=distill.train.epochs,
        select=distill.train.select,
        seeds={
            "data": (settings.data.seed,),
            "teacher": (settings.teacher.seed,),
            "distill": distill.seeds,
            "benchmark": (settings.benchmark.seed,),
        },
        params_sha256=sha256(params),
    )


def spread(values: Sequence[float]) -> Spread:
    """Mean, sample standard deviation and count."""
    return Spread(**mean_and_spread(list(values)))


def gain(value: Spread, over: Spread) -> Gain:
    """How far `value` lies above `over`; a tie below TIE_POINTS, or below the larger spread where one is known."""
    points = value.mean - over.mean
    threshold = max(TIE_POINTS, value.std or 0, over.std or 0)
    # Rounded: 61.7 - 61.2 is a hair below 0.5 in binary.
    return Gain(points=points, tie=round(abs(points), 9) < threshold)


Run = tuple[Evaluation, History]


def _student(students: Path, method: str, seed: int) -> Run:
    folder = students / method / str(seed)
    return (
        read(Evaluation, folder / "evaluation.json", f"evaluate@{method}-{seed}"),
        read(History, folder / "history.json", f"distill@{method}-{seed}"),
    )


def _top1(runs: Sequence[Run]) -> Spread:
    return spread([evaluation.test.top1 for evaluation, _ in runs])


def _network(name: str, runs: Sequence[Run], gain: Gain | None, ties_with_best: bool, deployed: bool) -> Network:
    evaluations, histories = zip(*runs, strict=True)
    first: Evaluation = evaluations[0]
    test = {}
    for key in Scores.model_fields:
        values = [getattr(evaluation.test, key) for evaluation in evaluations]
        if None not in values:
            test[key] = spread(values)
    last = [history.last or history.taken for history in histories]
    best = [history.best for history in histories]
    return Network(
        name=name,
        arch=first.arch,
        seeds=tuple(evaluation.seed for evaluation in evaluations),
        test=test,
        val_last=spread([score.val_top1 for score in last]),
        val_best=None if None in best else spread([score.val_top1 for score in best]),
        gain=gain,
        ties_with_best=ties_with_best,
        deployed=deployed,
        num_parameters=first.num_parameters,
        macs=first.macs,
        size_bytes=first.size_bytes,
        curve=_curve(histories),
    )


def _curve(histories: Sequence[History]) -> tuple[Point, ...]:
    """Validation top-1 by epoch, over the seeds that reached it."""
    by_epoch: dict[int, list[float]] = {}
    for history in histories:
        for record in history.epochs:
            by_epoch.setdefault(record.epoch, []).append(record.val.top1)
    return tuple(Point(epoch=epoch, top1=spread(values)) for epoch, values in sorted(by_epoch.items()))
