"""Shares as shaded cells: SVG in the page's own accent colour, light or dark, without script."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby

from markupsafe import Markup

_SHADES = 20


def cells(shares: Sequence[Sequence[float]], largest: float) -> Markup:
    """Unit squares of a table, as <path> elements: from nothing at 0 to full colour at `largest`, in 20 steps.

    A path for each shade, and one rectangle for equal neighbours in a row: a course over epochs that moves slowly costs
    few bytes.
    """
    runs: dict[int, list[str]] = defaultdict(list)
    for y, row in enumerate(shares):
        x = 0
        for shade, group in groupby(round(_SHADES * share / largest) for share in row):
            width = len(list(group))
            runs[shade].append(f"M{x} {y}h{width}v1h-{width}z")
            x += width
    return Markup("").join(
        Markup('<path fill-opacity="{}" d="{}"/>').format(shade / _SHADES, "".join(runs[shade]))
        for shade in sorted(runs)
        if shade
    )
