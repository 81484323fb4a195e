"""A survey as a picture: speed across, size of the file upwards, both logarithmic, and the budget as lines.

Across is how many times as fast as the teacher a student is; milliseconds where the budget is in these, although they
differ from one minute to the next on a busy machine.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from pipeline.choosing.budget import Budget, Row
from pipeline.report.pictures import labels
from pipeline.system.files import replacing

_TEACHER, _FITS, _REFUSED, _OTHER = "#b3541e", "#1b7f4d", "#8a5fb0", "#7a7f87"
_TICKS = [math.log10(step) + power for power in range(-5, 6) for step in (1, 2, 5)]
_LINE_INCHES = 0.17
"""Of height for each name."""


def draw(path: Path, teacher: Row, rows: Sequence[Row], budget: Budget) -> None:
    """Write an SVG file: the teacher and every row that was measured, with one image a call of the float32 file.

    What fits is green, or violet where a method refuses it.
    """
    measured = [row for row in rows if row["error"] is None]
    colors = [_TEACHER, *(_color(row, budget) for row in measured)]
    points = [_point(row, color, budget) for row, color in zip([teacher, *measured], colors, strict=True)]
    with matplotlib.rc_context():
        # A person's own matplotlibrc must not change the picture.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "survey", "font.size": 8})
        figure = Figure(figsize=(9, max(4.5, 1 + _LINE_INCHES * len(points))))
        axes = figure.add_axes((0.08, 0.1, 0.7, 0.85))
        unit = "times as fast as the teacher" if budget.ms is None else "ms a call"
        axes.set_xlabel(f"{unit} (float32, one image, median)")
        axes.set_ylabel("MB of the file (float32)")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(FixedLocator(_TICKS))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{10**value:.3g}"))
        for x, y, _, color in points:
            axes.plot(x, y, "o", color=color, markersize=5)
        _draw_budget(axes, teacher, budget)
        labels.beside(axes, sorted(points, key=lambda point: -point[1]), column=True)
        with replacing(path) as scratch:
            figure.savefig(scratch, format="svg", metadata={"Date": None})


def _point(row: Row, color: str, budget: Budget) -> tuple[float, float, str, str]:
    file = row["files"]["float32"]
    one = file["batches"][0]
    across = one["times_as_fast"]["median"] if budget.ms is None else one["p50_ms"]
    return math.log10(across), math.log10(file["bytes"] / 1e6), row["name"], color


def _color(row: Row, budget: Budget) -> str:
    if budget.fits(row) != "float32":
        return _OTHER
    return _REFUSED if row["refused"] else _FITS


def _draw_budget(axes: Axes, teacher: Row, budget: Budget) -> None:
    """A line for each bound; in milliseconds, that of the speed-up goes by the teacher's own time."""
    style: dict[str, Any] = {"color": _FITS, "linewidth": 0.8, "linestyle": "--"}
    if budget.mb is not None:
        axes.axhline(math.log10(budget.mb), **style)
    if budget.ms is not None:
        axes.axvline(math.log10(budget.ms), **style)
    if budget.speedup is not None:
        at = budget.speedup
        if budget.ms is not None:
            at = teacher["files"]["float32"]["batches"][0]["p50_ms"] / budget.speedup
        axes.axvline(math.log10(at), **style)
