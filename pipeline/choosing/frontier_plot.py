"""The picture of a frontier: validation top-1 against three costs, as a PNG that stands by itself."""

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.choosing.budget import Budget
from pipeline.choosing.frontier import AXES, Axis, allows, front, teachers
from pipeline.choosing.points import Student
from pipeline.report.pictures.labels import beside

_INCHES, _DPI = (15, 4.4), 150
_MARGINS = {"left": 0.045, "right": 0.9, "bottom": 0.12, "top": 0.97, "wspace": 0.45}
"""Of the width and the height; right of each panel is room for names."""
_INK, _MUTED, _LINE, _ACCENT = "#1c2430", "#5c6775", "#d5dae0", "#0b6bcb"


def draw(students: Sequence[Student], budget: Budget) -> bytes:
    """A PNG. Students are dots, hollow outside of the budget, with a bar for the 95 % that so many images leave.

    The line is the Pareto front, the square the teacher, and the grey part what the budget excludes. The same students
    give the same bytes on one installation of matplotlib.
    """
    with matplotlib.rc_context():
        # A person's own matplotlibrc must not change the picture.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"font.size": 9, "text.parse_math": False})
        figure = Figure(figsize=_INCHES)
        figure.subplots_adjust(**_MARGINS)
        for axis, axes in zip(AXES, figure.subplots(1, len(AXES), sharey=True), strict=True):
            _panel(axes, axis, students, budget)
        figure.axes[0].set_ylabel("validation top-1, %")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _panel(axes: Axes, axis: Axis, students: Sequence[Student], budget: Budget) -> None:
    axes.grid(color=_LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(axis.title)
    leading = front(students, axis)
    axes.plot(
        [axis.of_student(it) for it in leading],
        [it.val_top1 for it in leading],
        color=_ACCENT,
        linewidth=1.2,
        drawstyle="steps-pre" if axis.more_is_better else "steps-post",
    )
    names = []
    for it in students:
        x, color = axis.of_student(it), _ACCENT if it in leading else _MUTED
        ratio, (low, high) = it.times_as_fast, it.val_interval
        axes.errorbar(
            x,
            it.val_top1,
            yerr=[[it.val_top1 - low], [high - it.val_top1]],
            xerr=[[x - ratio.low], [ratio.high - x]] if axis.key == "speedup" else None,
            color=color,
            marker="o",
            markersize=7,
            markerfacecolor=color if allows(budget, it) else "white",
            elinewidth=0.8,
        )
        names.append((x, it.val_top1, it.title, color))
    for one in teachers(students):
        x = axis.of_teacher(one)
        axes.plot(x, one.val_top1, color=_INK, marker="s", markersize=8, linestyle="")
        names.append((x, one.val_top1, f"teacher {one.arch}", _INK))
    # From 0, so that distances are honest.
    right = 1.05 * max(x for x, *_ in names)
    bound = budget.bounds().get(axis.key)
    if bound is not None:
        right = max(right, 1.1 * bound)
        axes.axvline(bound, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.axvspan(*((0, bound) if axis.more_is_better else (bound, right)), color=_LINE, alpha=0.45, linewidth=0)
    axes.set_xlim(0, right)
    beside(axes, names, column=True)
