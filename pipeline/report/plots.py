"""The plots of the page, as SVG text: learning curves, and accuracy against what it costs."""

from collections.abc import Iterator, Sequence

from matplotlib.ticker import EngFormatter, MaxNLocator, ScalarFormatter

from pipeline.report import svg
from pipeline.report.collect import BASELINE, Network, Results
from pipeline.report.labels import beside
from pipeline.report.wording import smallest_batch

_WIDE, _HALF = (5.6, 3.5), (4.2, 3.4)
"""Width and height in inches; the page shows two of the half ones beside each other."""
_NAMES_INCHES = 1.1
"""Right of the learning curves, for the names."""


def learning_curves(results: Results) -> str:
    """Validation top-1 in percent by epoch: mean over the seeds, and a band of one standard deviation."""
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
            figure, "learning-curves", "Validation top-1 in percent by epoch, for the teacher and each method"
        )


def accuracy_against_latency(results: Results) -> str:
    """Test top-1 in percent against p50 in ms at the smallest batch; hollow where the student's latency is borrowed."""
    batch = smallest_batch(results)
    at = {who: batch.candidates[f"{who}_onnx"].p50_ms for who in ("student", "teacher")}
    points = [(network, at["student"], network.deployed) for network in results.methods]
    shown = [point for point in points if results.shares_latency(point[0])]
    return _scatter(
        results,
        "accuracy-latency",
        [(results.teacher, at["teacher"], True), *shown],
        f"ms per answer, batch {batch.batch_size} (p50)",
        "Test top-1 in percent against latency, for the teacher and each method",
    )


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
    results: Results, name: str, points: Sequence[tuple[Network, float, bool]], xlabel: str, title: str
) -> str:
    """Points are (network, x, filled). The x axis starts at 0, so that distances on it are honest."""
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
        axes.set_xlim(0, 1.3 * max(x for _, x, _ in points))
        axes.margins(y=0.15)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.xaxis.set_major_formatter(EngFormatter() if max(x for _, x, _ in points) >= 1000 else ScalarFormatter())
        axes.set_xlabel(xlabel)
        beside(axes, [(x, n.test["top1"].mean, n.name, colors[id(n)]) for n, x, _ in points], column=False)
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
