"""Names beside points, without overlap: a legend that needs no looking up."""

from collections.abc import Sequence

from matplotlib.axes import Axes

_LABEL_PT = 10.5
"""Distance of two labels, one below the other."""
_OFFSET_PT = 15
"""From a point to its label."""
_NEAR = 0.22
"""Of the width of the plot: room for a name."""


def beside(axes: Axes, points: Sequence[tuple[float, float, str, str]], column: bool) -> None:
    """Write a name beside each point (x, y, name, color), moved up or down where names would overlap.

    With `column` all names stand right of the plot. Else names stand right of their point; where another x is near,
    left of it if there is room, and else among the names of that x. Names of one place make way for each other.
    """
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    axes.set_ylim(low, high)
    offset = _OFFSET_PT * (right - left) / _points(axes, axes.bbox.width)
    gap = _LABEL_PT * (high - low) / _points(axes, axes.bbox.height)
    near = _NEAR * (right - left)
    groups: dict[tuple[float, bool], list[tuple[float, float, str, str]]] = {}
    for point in points:
        at = right if column else point[0]
        later = [] if column else [x for x, _, _, _ in points if at < x < at + near]
        before = bool(later) and at - left > near
        groups.setdefault((at if before else max([at, *later]), before), []).append(point)
    for (at, before), group in groups.items():
        label_x = at - offset if before else at + offset
        moved = apart([y for _, y, _, _ in group], gap, low + gap / 2, high - gap / 2)
        for (x, y, name, color), label_y in zip(group, moved, strict=True):
            axes.annotate(
                name,
                (x, y),
                xytext=(label_x, label_y),
                ha="right" if before else "left",
                va="center",
                color=color,
                annotation_clip=False,
                arrowprops={
                    "arrowstyle": "-",
                    "color": color,
                    "linewidth": 0.5,
                    "shrinkA": 0,
                    "shrinkB": 3,
                    "relpos": (1, 0.5) if before else (0, 0.5),
                },
            )


def _points(axes: Axes, pixels: float) -> float:
    return 72 * pixels / axes.figure.dpi


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions nearest to `wanted` (least squares), in the same order and at least `gap` apart, within low and high.

    Too many for the room from low to high run out below. Pooling of adjacent violators: neighbours that would overlap
    merge into one block around their common mean.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    blocks: list[tuple[float, int]] = []
    for rank, index in enumerate(order):
        mean, number = wanted[index] - rank * gap, 1
        while blocks and blocks[-1][0] > mean:
            other, others = blocks.pop()
            mean, number = (mean * number + other * others) / (number + others), number + others
        blocks.append((mean, number))
    starts = [mean for mean, number in blocks for _ in range(number)]
    placed = [0.0] * len(wanted)
    for rank, index in enumerate(order):
        ceiling = high - (len(order) - 1) * gap
        placed[index] = min(max(starts[rank], low), ceiling) + rank * gap
    return placed
