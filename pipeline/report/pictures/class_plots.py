"""Plots of classes and confidence, as SVG text."""

from pipeline.report.artefacts.results import Results
from pipeline.report.pictures import svg

_WIDE, _FLAT, _SQUARE = (5.6, 2.6), (5.6, 1.9), (3.6, 3.5)
_MOST_POINTS = 200
"""More would be a blur, and each takes its bytes."""


def balance(results: Results) -> str:
    """Images per class of train, the largest first."""
    counts = sorted(results.data.class_counts["train"], reverse=True)
    ranks = _thinned(len(counts))
    with svg.figure("class-balance", _FLAT, 0.1) as (figure, axes):
        axes.fill_between(
            ranks, [counts[rank] for rank in ranks], step="mid", color=svg.ACCENT, alpha=0.35, linewidth=0
        )
        axes.set_ylim(bottom=0)
        axes.set_xlim(-0.5, len(counts) - 0.5)
        axes.set_xticks([])
        axes.set_xlabel("classes")
        return svg.render(figure, "class-balance", "Images per class in train, the largest class first")


def top1_by_class(results: Results) -> str:
    """Test top-1 in percent of student (line) and teacher (points), classes in the order of the student's."""
    ranked = results.analysis.ranked()[::-1]
    ranks = _thinned(len(ranked))
    shown = [ranked[rank] for rank in ranks]
    with svg.figure("top1-by-class", _WIDE, 0.1) as (figure, axes):
        teacher = [(r, it.teacher_top1) for r, (_, it) in zip(ranks, shown, strict=True) if it.teacher_top1 is not None]
        if teacher:
            axes.plot(*zip(*teacher, strict=True), color=svg.MUTED, linestyle="", marker="o", markersize=3)
        axes.plot(ranks, [top1 for top1, _ in shown], color=svg.ACCENT, linewidth=2, drawstyle="steps-mid")
        axes.set_xticks([])
        axes.set_xlabel("classes")
        axes.margins(x=0.01)
        return svg.render(figure, "top1-by-class", "Test top-1 in percent by class, for the student and its teacher")


def reliability(results: Results) -> str:
    """Accuracy against mean confidence, both in percent, of the bins that hold images; area by their number."""
    bins = [it for it in results.analysis.reliability if it.images and None not in (it.confidence, it.accuracy)]
    most = max((it.images for it in bins), default=1)
    with svg.figure("reliability", _SQUARE, 0.1) as (figure, axes):
        axes.plot([0, 100], [0, 100], color=svg.MUTED, linewidth=1, linestyle=(0, (4, 3)))
        x, y = ([100 * (getattr(it, name) or 0) for it in bins] for name in ("confidence", "accuracy"))
        axes.plot(x, y, color=svg.ACCENT, linewidth=1.3)
        axes.scatter(x, y, s=[12 + 130 * it.images / most for it in bins], color=svg.ACCENT, linewidths=0)
        axes.set_xlim(0, 101)
        axes.set_ylim(0, 103)
        axes.set_xlabel("confidence %")
        return svg.render(figure, "reliability", "Accuracy against confidence, in percent")


def _thinned(number: int) -> list[int]:
    """Ranks 0 to number - 1, evenly thinned to _MOST_POINTS, both ends kept."""
    if number <= _MOST_POINTS:
        return list(range(number))
    return [round(index * (number - 1) / (_MOST_POINTS - 1)) for index in range(_MOST_POINTS)]
