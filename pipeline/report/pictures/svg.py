"""SVG that stands in a page: no fixed colour or font in it, so that the page's own, light or dark, apply.

matplotlib is told placeholder colours, which become CSS variables of page.html.jinja afterwards. Text stays text. No
date, no version and no random id is left, so the same numbers give the same bytes.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SERIES = tuple(f"#f0f1{index:02x}" for index in range(1, 7))
PAPER, INK, MUTED, LINE, ACCENT = (f"#f0f2{index:02x}" for index in range(1, 6))
_VARIABLES = {
    PAPER: "--paper",
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    ACCENT: "--accent",
    **{color: f"--series-{index}" for index, color in enumerate(SERIES, start=1)},
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.axisbelow": True,
    "axes.grid.axis": "y",
    "axes.grid": True,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
}
_MARGINS_INCHES = (0.42, 0.47, 0.08)
"""Left, bottom, top; fixed, so that no font decides the layout."""


@contextmanager
def figure(name: str, inches: tuple[float, float], right: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure with a margin of `right` inches; ids are derived from `name`, so that plots do not clash in one page."""
    (width, height), (left, bottom, top) = inches, _MARGINS_INCHES
    rectangle = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
    with matplotlib.rc_context():
        # A person's own matplotlibrc must not change the page.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_STYLE, "svg.hashsalt": name})
        drawn = Figure(figsize=inches, facecolor="none")
        yield drawn, drawn.add_axes(rectangle)


def render(drawn: Figure, name: str, title: str) -> str:
    """The figure as an <svg> element that stands in HTML: no prolog, no name spaces, no sizes, colours by variable."""
    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    view_box = re.search(r'viewBox="([^"]*)"', text)
    assert view_box is not None, "matplotlib writes a viewBox"
    opening = f'<svg class="plot {name}" role="img" aria-label="{title}" viewBox="{view_box[1]}">'
    text = opening + text[text.index(">") + 1 :]
    # Groups carry ids that nothing refers to and that repeat from plot to plot.
    text = re.sub(r'<g id="[^"]*"', "<g", text).replace("xlink:href", "href")
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    return text
