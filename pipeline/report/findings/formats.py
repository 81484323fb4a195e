"""Numbers as text, for the page and for RESULTS.md alike: a quantity is formatted in one place."""

import math

from pipeline.report.artefacts.measured import Ratio
from pipeline.report.artefacts.records import Spread

PLUS_MINUS = "\u00b1"
NONE = "\u2013"
"""Where there is no number."""
_LEAST = 1e-6


def percent(value: float) -> str:
    """Percent or points, without the sign: two decimals resolve one image in ten thousand."""
    return f"{value:.2f}"


def points(value: float) -> str:
    """A difference in points, always with its sign."""
    # + 0.0 turns the negative zero that rounding may leave into a plain one.
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "\u2212")


def decimal(value: float) -> str:
    """NLL in nats, ECE in [0, 1]."""
    return f"{value:.3f}"


def count(value: int) -> str:
    """A whole number of things."""
    return f"{value:,}"


def scaled(value: float) -> str:
    """Three digits and a prefix: 12.4 M."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{_three_digits(value / factor)} {prefix}"
    return f"{value:.0f} "


def size(num_bytes: float) -> str:
    """A file size in decimal units: 312 kB."""
    return f"{scaled(num_bytes)}B"


def milliseconds(value: float | None) -> str:
    """Three digits, or a dash where there were too few samples."""
    return NONE if value is None else _three_digits(value)


def share(value: float) -> str:
    """A fraction of 1 as percent, with a sign; finer below a tenth, and near the whole."""
    return f"{100 * value:.1f} %" if value < 0.1 or 0.95 <= value < 1.05 else f"{100 * value:.0f} %"


def ratio(value: Ratio) -> str:
    """Median and interval."""
    return f"{value.median:.2f} {interval(value)}"


def interval(value: Ratio) -> str:
    """The 95 % interval of a ratio."""
    return f"[{value.low:.2f}, {value.high:.2f}]"


def bounds(values: tuple[float, float]) -> str:
    """The 95 % interval of a difference, in points."""
    return f"[{points(values[0])}, {points(values[1])}]"


def span(values: tuple[float, float]) -> str:
    """The 95 % interval of a percentage."""
    return f"[{percent(values[0])}, {percent(values[1])}]"


def probability(value: float) -> str:
    """What follows the letter p: two digits, or the bound that it lies below."""
    return f"< {_LEAST:f}" if value < _LEAST else f"= {value:.1e}" if value < 0.001 else f"= {value:.2g}"


def tiny(value: float) -> str:
    """A rounding error."""
    return f"{value:.1e}"


def with_spread(top1: Spread) -> str:
    """Mean and standard deviation over the seeds; '?' for the unknown one of a single seed."""
    return f"{percent(top1.mean)} {uncertainty(top1)}"


def uncertainty(top1: Spread) -> str:
    """What follows the mean."""
    return f"{PLUS_MINUS} {'?' if top1.std is None else percent(top1.std)}"


def channels(values: tuple[float, float, float]) -> str:
    """Red, green, blue in [0, 1]."""
    return ", ".join(f"{value:.4f}" for value in values)


def _three_digits(value: float) -> str:
    decimals = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{decimals}f}"
