"""A survey as a picture: time of a call across, size of the file upwards, both logarithmic, and the budget as lines."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pipeline.report.pictures import labels
from pipeline.sweep.budget import Budget, Row, smaller
from pipeline.system.files import replacing

_TEACHER, _FITS, _REFUSED, _OTHER = "#b3541e", "#1b7f4d", "#8a5fb0", "#7a7f87"
_LINE_INCHES = 0.17
"""Of height for each name."""


def draw(path: Path, teacher: Row, rows: Sequence[Row], budget: Budget) -> None:
    """Write an SVG file: the teacher and every row that was measured, with one image a call and the smaller file.

    What fits is green, or violet where a method refuses it.
    """
    measured = [row for row in rows if row["error"] is None]
    points = [_point(teacher, _TEACHER), *(_point(row, _color(row, budget)) for row in measured)]
    with matplotlib.rc_context():
        # A person's own matplotlibrc must not change the picture.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "survey", "font.size": 8})
        figure = Figure(figsize=(9, max(4.5, 1 + _LINE_INCHES * len(points))))
        axes = figure.add_axes((0.08, 0.1, 0.7, 0.85))
        axes.set_xlabel("ms a call with one image (float32, median)")
        axes.set_ylabel("MB of the smaller file (float32 or int8)")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(7))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{10**value:.3g}"))
        for x, y, _, color in points:
            axes.plot(x, y, "o", color=color, markersize=5)
        _draw_budget(axes, teacher, budget)
        labels.beside(axes, sorted(points, key=lambda point: -point[1]), column=True)
        with replacing(path) as scratch:
            figure.savefig(scratch, format="svg", metadata={"Date": None})


def _point(row: Row, color: str) -> tuple[float, float, str, str]:
    return math.log10(_ms(row)), math.log10(smaller(row)[1]), row["name"], color


def _ms(row: Row) -> float:
    return float(row["files"]["float32"]["batches"][0]["p50_ms"])


def _color(row: Row, budget: Budget) -> str:
    if budget.fits(row) != "float32":
        return _OTHER
    return _REFUSED if row["refused"] else _FITS


def _draw_budget(axes: Axes, teacher: Row, budget: Budget) -> None:
    """A line for each bound; that of the speed-up goes by the teacher's own time, measured once."""
    if budget.mb is not None:
        axes.axhline(math.log10(budget.mb), color=_FITS, linewidth=0.8, linestyle="--")
    bounds = [budget.ms, None if budget.speedup is None else _ms(teacher) / budget.speedup]
    for bound in bounds:
        if bound is not None:
            axes.axvline(math.log10(bound), color=_FITS, linewidth=0.8, linestyle="--")
