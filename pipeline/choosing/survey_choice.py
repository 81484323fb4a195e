"""The student that a survey chooses, and what params.yaml then says."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.choosing.budget import Budget, Row, verdict
from pipeline.models.base import check_pretrained
from pipeline.settings import presets
from pipeline.settings.networks import Student
from pipeline.system.errors import ParamsError


def check(budget: Budget) -> None:
    """Raises ParamsError where there is no bound to choose by."""
    if not budget.bounds():
        raise ParamsError("--choose needs a budget to choose by: add --budget-speedup, --budget-mb or --budget-ms.")


def choose(rows: Sequence[Row], budget: Budget) -> Row:
    """The row with most MACs that fits with its float32 file, and that no method refuses.

    Raises ParamsError where there is none.
    """
    fitting = [row for row in rows if budget.fits(row) == "float32"]
    if not fitting:
        raise ParamsError(f"{verdict(rows, budget)} Ask for less, or name other --candidates. Nothing was changed.")
    free = [row for row in fitting if not row["refused"]]
    if not free:
        refused = "; ".join(f"{row['name']} by {', '.join(row['refused'])}" for row in fitting)
        raise ParamsError(
            f"What fits {budget} is refused by methods of params.yaml ({refused}). Take these methods out of "
            "distill.methods, or write one of these networks into student.arch. Nothing was changed."
        )
    return max(free, key=lambda row: int(row["macs"]))


def write(row: Row, before: Student, params: Path) -> str:
    """Let params.yaml have the student of a row, comments kept; what changed, in a line.

    `before` is its section `student`. Importance and weights of a cut stay what they are; pretrained weights that the
    network does not have are no longer asked for.
    """
    arch, cut = row["student"]["arch"], row["student"].get("pruned")
    overlay = {"arch": arch}
    if cut is not None:
        # The other target goes, of which there may be one alone.
        without = {"speedup": None} if before.pruned is not None and before.pruned.speedup is not None else {}
        overlay["pruned"] = {**cut, **without}
    elif before.pruned is not None:
        overlay["pruned"] = None
    if before.pretrained and not _has_pretrained(arch):
        overlay["pretrained"] = False
    changes = presets.change({"student": overlay}, params, "--choose")
    return f"{params}: {'; '.join(changes) or 'student.arch already says ' + row['name']}"


def _has_pretrained(arch: str) -> bool:
    try:
        check_pretrained(arch, "student")
    except ParamsError:
        return False
    return True
