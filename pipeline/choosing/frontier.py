"""Students of several experiments side by side: which lead in accuracy for their cost, and which a budget allows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from pipeline.choosing.budget import Budget
from pipeline.choosing.experiments import Found
from pipeline.choosing.points import Student, Teacher


@dataclass(frozen=True)
class Axis:
    """One cost that accuracy is held against."""

    key: str
    """Of the bound in `Budget`."""
    title: str
    of_student: Callable[[Student], float]
    of_teacher: Callable[[Teacher], float]
    more_is_better: bool = False

    def cost(self, student: Student) -> float:
        """What is to be small."""
        return -self.of_student(student) if self.more_is_better else self.of_student(student)


AXES = (
    Axis("ms", "ms a call, batch 1 (p50)", lambda it: it.p50_ms, lambda it: it.p50_ms),
    Axis("speedup", "times as fast as its teacher", lambda it: it.times_as_fast.median, lambda _: 1.0, True),
    Axis("mb", "MB on disk", lambda it: it.size_bytes / 1e6, lambda it: it.size_bytes / 1e6),
)


def allows(budget: Budget, student: Student) -> bool:
    """Whether a student keeps every bound."""
    bounds = budget.bounds()
    return all(
        axis.cost(student) <= (-bounds[axis.key] if axis.more_is_better else bounds[axis.key])
        for axis in AXES
        if axis.key in bounds
    )


def front(students: Sequence[Student], axis: Axis) -> list[Student]:
    """The students that no other one beats by being cheaper and as accurate, or more accurate and as cheap.

    In the order of what `axis` shows.
    """

    def beats(one: Student, other: Student) -> bool:
        no_worse = axis.cost(one) <= axis.cost(other) and one.val_top1 >= other.val_top1
        return no_worse and (axis.cost(one) < axis.cost(other) or one.val_top1 > other.val_top1)

    leading = [it for it in students if not any(beats(other, it) for other in students)]
    return sorted(leading, key=axis.of_student)


def best(students: Sequence[Student], budget: Budget) -> Student | None:
    """The most accurate student that the budget allows; of equal ones the fastest. None if it allows none."""
    allowed = [it for it in students if allows(budget, it)]
    return min(allowed, key=lambda it: (-it.val_top1, -it.times_as_fast.median), default=None)


def teachers(students: Sequence[Student]) -> list[Teacher]:
    """Each teacher once, with the median of its times over the runs."""
    times: dict[tuple[str, float, int], list[float]] = {}
    for it in (student.teacher for student in students):
        times.setdefault((it.arch, it.val_top1, it.size_bytes), []).append(it.p50_ms)
    return [Teacher(arch, top1, median(ms), size) for (arch, top1, size), ms in times.items()]


TITLES = (
    "experiment",
    "student",
    "val top-1 % [95 %]",
    "ms a call",
    "times as fast [95 %]",
    "MB",
    "leads by",
    "in budget",
)


def rows(students: Sequence[Student], budget: Budget) -> list[tuple[str, ...]]:
    """A row of `TITLES` for each student, the most accurate first, and one for each teacher."""
    fronts = {axis.key: front(students, axis) for axis in AXES}
    found: list[tuple[str, ...]] = []
    for it in sorted(students, key=lambda it: -it.val_top1):
        ratio, (low, high) = it.times_as_fast, it.val_interval
        found.append(
            (
                ", ".join(it.names),
                f"{it.method} {it.seed} {it.number_format}",
                f"{it.val_top1:.2f} [{low:.1f}, {high:.1f}]",
                f"{it.p50_ms:.3f}",
                f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]",
                f"{it.size_bytes / 1e6:.2f}",
                ", ".join(key for key, members in fronts.items() if it in members) or "-",
                "yes" if allows(budget, it) else "no",
            )
        )
    for one in teachers(students):
        sizes = (f"{one.p50_ms:.3f}", "1", f"{one.size_bytes / 1e6:.2f}")
        found.append(("teacher", one.arch, f"{one.val_top1:.2f}", *sizes, "-", "-"))
    return found


def notes(found: Found, budget: Budget) -> list[str]:
    """How to read the table, what it lacks, and the student to take, a sentence or two each."""
    students = found.students
    machines, images = ({getattr(it, name) for it in students} for name in ("machine", "val_images"))
    said = [
        "Accuracy is of validation, with the 95 % interval that the number of its images leaves. "
        "Milliseconds of different runs compare only roughly; times as fast is against the teacher in the same run."
    ]
    if len(machines) > 1:
        said.append(f"Measured on {len(machines)} machines, so compare no milliseconds: {'; '.join(sorted(machines))}.")
    if len(images) > 1:
        said.append(f"There are {len(images)} sets of validation images; compare no accuracies across them.")
    said += [f"Left out: {why}" for why in found.left_out]
    if budget.bounds():
        one = best(students, budget)
        said.append(
            "No student keeps the budget."
            if one is None
            else f"Within the budget, {one.title} ({one.method}, {one.number_format}) is the most accurate: "
            f"{one.val_top1:.2f} % on validation, which flatters the best of many."
        )
    return said


def record(found: Found, budget: Budget) -> dict[str, Any]:
    """All of it as plain data; `best` is the title of the most accurate student that the budget allows, or None."""
    fronts = {axis.key: front(found.students, axis) for axis in AXES}
    one = best(found.students, budget)
    return {
        "budget": vars(budget),
        "best": one and one.title,
        "students": [
            vars(it)
            | {"times_as_fast": it.times_as_fast.model_dump(), "teacher": it.teacher._asdict()}
            | {"leads_by": [key for key, members in fronts.items() if it in members]}
            | {"in_budget": allows(budget, it)}
            for it in found.students
        ],
        "left_out": found.left_out,
    }
