"""From the artefacts of a run to one frozen structure: every method over its seeds, the teacher, the deployed student.

What is shown is what params.yaml lists; other students that lie in the folder are not looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.data import card as cards
from pipeline.data.arrays import Split
from pipeline.evaluation import published
from pipeline.evaluation.comparison import BASELINE, TIE_POINTS
from pipeline.evaluation.metrics import mean_and_spread
from pipeline.report import attention
from pipeline.report.artefacts.analysed import Analysis, Comparison
from pipeline.report.artefacts.audited import Audit
from pipeline.report.artefacts.examples import examples
from pipeline.report.artefacts.measured import Latency
from pipeline.report.artefacts.records import (
    Chosen,
    Deployed,
    Evaluation,
    History,
    Parity,
    Quantization,
    Scores,
    Spread,
    read,
)
from pipeline.report.artefacts.results import Commit, Gain, Network, Point, Results
from pipeline.report.artefacts.shipped import shipped
from pipeline.settings import params as parameters
from pipeline.system.files import sha256


@dataclass(frozen=True)
class Sources:
    """Where the artefacts of a run are."""

    params: Path
    students: Path
    """Holds METHOD/SEED folders."""
    teacher: Path
    chosen: Path
    """A file, as comparison, energy_maps and published."""
    deploy: Path
    comparison: Path
    energy_maps: Path
    data: Path
    published: Path


def collect(sources: Sources, commit: Commit | None = None) -> Results:
    """Read a run. `commit` says which code is at work.

    Raises PupilError naming the first file that is missing or torn, and the stage that writes it.
    """
    settings = parameters.load(sources.params)
    card = cards.load(sources.data)
    distill, ships = settings.distill, read(Chosen, sources.chosen, "choose")
    runs = {method: [_student(sources, method, seed) for seed in distill.seeds] for method in distill.methods}
    teacher_run = (
        read(Evaluation, sources.teacher / "evaluation.json", "evaluate_teacher"),
        read(History, sources.teacher / "history.json", "train_teacher"),
    )
    comparison = read(Comparison, sources.comparison, "compare")
    printed = published.read(sources.published)
    figures = printed.beside(
        teacher_run[0].arch, settings.student.arch, card.labels, {card.image_px, settings.student_px}
    )
    rows = {method: printed.row_name(method, config) for method, config in distill.methods.items()}
    shown = [(name, figures[name]) for name in (published.TEACHER, *rows.values()) if name in figures]
    top1 = {method: _top1(run) for method, run in runs.items()}
    best = max(top1.values(), key=lambda spread: spread.mean)
    networks = [
        _network(
            method,
            run,
            gain=_gain_over_baseline(method, top1, comparison),
            figure=figures.get(rows[method]),
            ties_with_best=gain(top1[method], best).tie,
            deployed=method == ships.method,
        )
        for method, run in runs.items()
    ]
    latency = read(Latency, sources.deploy / "latency.json", "benchmark")
    quantization = read(Quantization, sources.deploy / "quantization.json", "quantize")
    shipped_from = sources.students / ships.method / str(ships.seed)
    analysis = read(Analysis, shipped_from / "analysis.json", f"evaluate@{ships.method}-{ships.seed}")
    test = Split.load(sources.data, "test", card)
    return Results(
        teacher=_network(
            "teacher",
            [teacher_run],
            gain=None,
            figure=figures.get(published.TEACHER),
            ties_with_best=False,
            deployed=False,
        ),
        methods=tuple(networks),
        teacher_evaluation=teacher_run[0],
        deployed=_student(sources, ships.method, ships.seed)[0],
        chosen=ships,
        shipped=shipped(latency, quantization, read(Deployed, sources.deploy / "deployed.json", "ship")),
        comparison=comparison,
        analysis=analysis,
        examples=examples(analysis, test, card.labels, shipped_from / "logits.npy", sources.teacher / "logits.npy"),
        attention=attention.collect(sources.students, list(distill.methods), ships.seed, sources.energy_maps),
        latency=latency,
        parity=read(Parity, sources.deploy / "parity.json", "export"),
        quantization=quantization,
        data=card,
        student_px=settings.student.image_px or card.image_px,
        audit=read(Audit, sources.data / "audit.json", "prepare"),
        published_by=tuple(published.sources(shown)),
        student_epochs=distill.train.epochs,
        select=distill.train.select,
        seeds={
            "data": (settings.data.seed,),
            "teacher": (settings.teacher.seed,),
            "distill": distill.seeds,
            "benchmark": (settings.benchmark.seed,),
        },
        params_sha256=sha256(sources.params),
        commit=commit,
    )


def spread(values: Sequence[float]) -> Spread:
    """Mean, sample standard deviation and count."""
    return Spread(**mean_and_spread(list(values)))


def gain(value: Spread, over: Spread) -> Gain:
    """How far `value` lies above `over`; a tie below TIE_POINTS, or below the larger spread where one is known."""
    points = value.mean - over.mean
    threshold = max(TIE_POINTS, value.std or 0, over.std or 0)
    # Rounded: 61.7 - 61.2 is a hair below 0.5 in binary.
    return Gain(points=points, tie=round(abs(points), 9) < threshold, interval=None)


Run = tuple[Evaluation, History]


def _student(sources: Sources, method: str, seed: int) -> Run:
    folder = sources.students / method / str(seed)
    return (
        read(Evaluation, folder / "evaluation.json", f"evaluate@{method}-{seed}"),
        read(History, folder / "history.json", f"distill@{method}-{seed}"),
    )


def _top1(runs: Sequence[Run]) -> Spread:
    return spread([evaluation.test.top1 for evaluation, _ in runs])


def _gain_over_baseline(method: str, top1: Mapping[str, Spread], comparison: Comparison) -> Gain | None:
    if BASELINE not in top1 or method == BASELINE:
        return None
    compared = comparison.over_seeds(method, BASELINE)
    interval = None if compared is None else compared.interval
    return gain(top1[method], top1[BASELINE]).model_copy(update={"interval": interval})


def _network(
    name: str,
    runs: Sequence[Run],
    gain: Gain | None,
    figure: published.Figure | None,
    ties_with_best: bool,
    deployed: bool,
) -> Network:
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
        published=figure.top1 if figure else None,
        published_augmented=figure is not None and figure.augmented,
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
