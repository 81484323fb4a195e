"""What a student may cost: which of a survey's rows keep to it, and which is nearest."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.system.errors import ParamsError

Row = dict[str, Any]
"""As pipeline/choosing/surveyor.py describes it."""


@dataclass(frozen=True)
class Budget:
    """Bounds, each None where it was not given.

    speedup   the least number of times as fast as the teacher, with one image a call
    mb        the largest file in MB (1 MB = 1,000,000 bytes)
    ms        the longest median call with one image, in milliseconds

    Raises ParamsError for a bound that is no positive number.
    """

    speedup: float | None = None
    mb: float | None = None
    ms: float | None = None

    def __post_init__(self) -> None:
        for name, value in self.bounds().items():
            if not 0 < value < math.inf:
                raise ParamsError(f"--budget-{name} is {value:g}: expected a number above 0, such as 3.")

    def __str__(self) -> str:
        """As it stands on the command line."""
        return " ".join(f"--budget-{name} {value:g}" for name, value in self.bounds().items())

    def bounds(self) -> dict[str, float]:
        """Those that were given, by name."""
        given = {"speedup": self.speedup, "mb": self.mb, "ms": self.ms}
        return {name: value for name, value in given.items() if value is not None}

    def fits(self, row: Row) -> str | None:
        """The file that keeps to every bound: "float32"; "int8" where only that one does; None for neither.

        Where the float32 file does and int8 ships in its place, int8 does too: it is smaller, and with
        `deploy.prefer: speed` no benchmark could measure that it is slower.
        """
        if not self.bounds():
            return None
        return next((file for file in ("float32", "int8") if self.excess(row, file) <= 1), None)

    def excess(self, row: Row, file: str = "float32") -> float:
        """By which factor the speed or the size of that file misses the budget, whichever misses it most.

        1 or less: nothing does. Infinite where there is no such file.
        """
        if row["error"] is not None or row["files"][file] is None:
            return math.inf
        size, one = row["files"][file]["bytes"], row["files"][file]["batches"][0]
        came = {"speedup": 1 / one["times_as_fast"]["median"], "mb": size / 1e6, "ms": one["p50_ms"]}
        wanted = {**self.bounds(), **({"speedup": 1 / self.speedup} if self.speedup is not None else {})}
        return max((came[name] / bound for name, bound in wanted.items()), default=0.0)


def in_words(row: Row) -> str:
    """What the float32 file of a row costs, for a sentence."""
    file = row["files"]["float32"]
    one, mb = file["batches"][0], file["bytes"] / 1e6
    return f"{row['name']}: {one['times_as_fast']['median']:.2f} times as fast, {one['p50_ms']:.3g} ms, {mb:.3g} MB"


def verdict(rows: Sequence[Row], budget: Budget) -> str:
    """What keeps to the budget, in a sentence; the nearest where nothing does."""
    fitting = [row["name"] for row in rows if budget.fits(row) == "float32"]
    if fitting:
        return f"{len(fitting)} of {len(rows)} candidates fit {budget}: {', '.join(fitting)}."
    with_int8 = [row["name"] for row in rows if budget.fits(row) == "int8"]
    also = f" Only in int8 would these: {', '.join(with_int8)}." if with_int8 else ""
    usable = [row for row in rows if row["error"] is None]
    if not usable:
        return f"Nothing fits {budget}, because no candidate could be measured."
    nearest = min(usable, key=budget.excess)
    return f"Nothing fits {budget}. The nearest is {in_words(nearest)}.{also}"
