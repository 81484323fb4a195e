"""The plots of the page, as SVG text: learning curves, accuracy against what it costs, and latency."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

from matplotlib.axis import Axis
from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, MaxNLocator, ScalarFormatter

from pipeline.evaluation.comparison import BASELINE
from pipeline.report.artefacts.measured import parts
from pipeline.report.artefacts.results import Network, Results
from pipeline.report.findings.timings import candidate
from pipeline.report.pictures import svg
from pipeline.report.pictures.labels import beside

_WIDE, _HALF = (5.6, 3.5), (4.2, 3.4)
"""Width and height in inches; the page shows two of the half ones beside each other."""
_NAMES_INCHES = 1.1
"""Right of the learning curves, for the names."""
_CANDIDATES_INCHES = 2.2
"""The same, for candidates."""


def learning_curves(results: Results) -> str:
    """Validation top-1 in percent by epoch: mean over the seeds, and a band of one standard deviation."""
    seen = ", images seen in training," if results.data.train_includes_val else ""
    with svg.figure("learning-curves", _WIDE, _NAMES_INCHES) as (figure, axes):
        ends: list[tuple[int | None, float, str, str]] = []
        for network, color in _colored(results):
            epochs = [point.epoch for point in network.curve]
            means = [point.top1.mean for point in network.curve]
            wide = 2.0 if network.deployed or network is results.teacher else 1.3
            if not epochs:
                axes.axhline(network.val_last.mean, color=color, linewidth=wide, linestyle=(0, (4, 3)))
                ends.append((None, network.val_last.mean, network.name, color))
                continue
            axes.plot(epochs, means, color=color, linewidth=wide, marker="o" if len(epochs) == 1 else "")
            stds = [point.top1.std or 0.0 for point in network.curve]
            if any(stds):
                low, high = ([m + sign * s for m, s in zip(means, stds, strict=True)] for sign in (-1, 1))
                axes.fill_between(epochs, low, high, color=color, alpha=0.15, linewidth=0)
            ends.append((epochs[-1], means[-1], network.name, color))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.set_xlabel("epoch")
        right = max([x for x, _, _, _ in ends if x is not None], default=1)
        axes.set_xlim(right=right + 0.01 * (right - 1))
        beside(axes, [(right if x is None else x, y, name, color) for x, y, name, color in ends], column=True)
        return svg.render(
            figure,
            "learning-curves",
            f"Validation top-1 in percent{seen} by epoch, for the teacher and each method",
        )


def accuracy_against_latency(results: Results) -> str:
    """Test top-1 in percent against p50 in ms at the smallest batch; hollow where the student's latency is borrowed."""
    batch = results.latency.smallest_batch()
    at = {who: batch.candidates[f"{who}_onnx"].p50_ms for who in ("student", "teacher")}
    points = [(network, at["student"], network.deployed) for network in results.methods]
    shown = [point for point in points if results.shares_latency(point[0])]
    return _scatter(
        results,
        "accuracy-latency",
        [(results.teacher, at["teacher"], True), *shown],
        f"ms per answer, batch {batch.batch_size} (p50)",
        "Test top-1 in percent against latency, for the teacher and each method",
        formats=[
            (f"{results.deployed.method} {parts(it.name)[1]}", batch.candidates[it.name].p50_ms, it.top1)
            for it in results.latency.candidates
            if it.top1 is not None and parts(it.name)[1] != "fp32"
        ],
    )


def latency_distribution(results: Results) -> str:
    """p1, p2, ... p99 of every candidate in ms, on a logarithmic scale, at the smallest batch."""
    candidates = results.latency.smallest_batch().candidates
    with svg.figure("latency-distribution", _WIDE, _CANDIDATES_INCHES) as (figure, axes):
        ends = []
        for (name, timing), color in zip(candidates.items(), _candidate_colors(candidates), strict=True):
            points = [(p, math.log10(ms)) for p, ms in enumerate(timing.quantiles_ms, 1) if ms is not None]
            if points:
                axes.plot(*zip(*points, strict=True), color=color, linewidth=1.5)
                ends.append((*points[-1], candidate(name), color))
        axes.set_xlim(0, 100)
        axes.set_xlabel("percent of calls")
        _logarithmic(axes.yaxis, *axes.get_ylim())
        beside(axes, ends, column=True)
        return svg.render(figure, "latency-distribution", "Milliseconds per call by percent of calls, by candidate")


def throughput_against_latency(results: Results) -> str:
    """Images per second against p50 in ms, on a logarithmic scale; a line through the batch sizes of a candidate."""
    batches = sorted(results.latency.batches, key=lambda batch: batch.batch_size)
    names = batches[0].candidates
    with svg.figure("throughput-latency", _WIDE, _CANDIDATES_INCHES) as (figure, axes):
        ends = []
        for name, color in zip(names, _candidate_colors(names), strict=True):
            timings = [batch.candidates[name] for batch in batches if name in batch.candidates]
            points = [(math.log10(timing.p50_ms), timing.images_per_s) for timing in timings]
            axes.plot(*zip(*points, strict=True), color=color, linewidth=1.2, marker="o", markersize=5)
            ends.append((*points[-1], candidate(name), color))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("ms per call (p50)")
        axes.yaxis.set_major_formatter(EngFormatter())
        _logarithmic(axes.xaxis, *axes.get_xlim())
        beside(axes, ends, column=True)
        return svg.render(figure, "throughput-latency", "Images per second against milliseconds per call, by candidate")


def _logarithmic(axis: Axis, low: float, high: float) -> None:
    """Ticks at 1, 2 and 5 times powers of ten, of an axis whose values are decimal logarithms."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    ticks = [decade + math.log10(digit) for decade in decades for digit in (1, 2, 5)]
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{10**value:.3g}"))


def _candidate_colors(names: Iterable[str]) -> Iterator[str]:
    """The student in ONNX Runtime stands out, the teacher there is plain ink; the others take turns."""
    fixed = {"student_onnx": svg.ACCENT, "teacher_onnx": svg.INK}
    turns = itertools.cycle(svg.SERIES)
    return (fixed.get(name) or next(turns) for name in names)


def accuracy_against_parameters(results: Results) -> str:
    """Test top-1 in percent against the number of parameters."""
    networks = results.networks()
    return _scatter(
        results,
        "accuracy-parameters",
        [(network, float(network.num_parameters), True) for network in networks],
        "parameters",
        "Test top-1 in percent against the number of parameters, for the teacher and each method",
    )


def _scatter(
    results: Results,
    name: str,
    points: Sequence[tuple[Network, float, bool]],
    xlabel: str,
    title: str,
    formats: Sequence[tuple[str, float, float]] = (),
) -> str:
    """Points are (network, x, filled). The x axis starts at 0, so that distances on it are honest.

    `formats` are (name, x, top-1 in percent) of the deployed student in other number formats, drawn as diamonds.
    """
    colors = {id(network): color for network, color in _colored(results)}
    with svg.figure(name, _HALF, 0.1) as (figure, axes):
        for network, x, filled in points:
            color, top1 = colors[id(network)], network.test["top1"]
            axes.errorbar(
                x,
                top1.mean,
                yerr=top1.std,
                color=color,
                marker="s" if network is results.teacher else "o",
                markersize=8 if network is results.teacher or network.deployed else 6,
                markerfacecolor=color if filled else svg.PAPER,
                elinewidth=1,
                zorder=3 if network.deployed else 2,
            )
        for _, x, top1_of_format in formats:
            axes.plot(x, top1_of_format, color=svg.ACCENT, marker="D", markersize=6, zorder=3)
        right = max(x for _, x, _ in [*points, *formats])
        axes.set_xlim(0, 1.3 * right)
        axes.margins(y=0.15)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.xaxis.set_major_formatter(EngFormatter() if right >= 1000 else ScalarFormatter())
        axes.set_xlabel(xlabel)
        named = [(x, n.test["top1"].mean, n.name, colors[id(n)]) for n, x, _ in points]
        beside(axes, [*named, *((x, top1, name, svg.ACCENT) for name, x, top1 in formats)], column=False)
        return svg.render(figure, name, title)


def _colored(results: Results) -> Iterator[tuple[Network, str]]:
    """What ships stands out, the teacher is plain ink, the baseline steps back; the others take turns."""
    taken = 0
    yield results.teacher, svg.INK
    for network in results.methods:
        if network.deployed:
            yield network, svg.ACCENT
        elif network.name == BASELINE:
            yield network, svg.MUTED
        else:
            yield network, svg.SERIES[taken % len(svg.SERIES)]
            taken += 1
