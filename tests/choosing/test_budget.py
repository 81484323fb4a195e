"""What a student may cost, and which one is chosen and written down."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.choosing import survey_choice
from pipeline.choosing.budget import Budget, Row, in_words, verdict
from pipeline.settings import params as parameters
from pipeline.settings.networks import Student
from pipeline.system.errors import ParamsError

ROOT = Path(__file__).parents[2]


def row(name: str, ms: float, mb: float, macs: int = 1, int8: tuple[float, float] | None = None, **more: Any) -> Row:
    """Of a student beside a teacher that takes 1 ms; `int8` is its ms and MB there."""

    def file(ms: float, mb: float) -> dict[str, Any]:
        ratio = dict.fromkeys(("median", "low", "high"), 1 / ms)
        return {"bytes": round(1e6 * mb), "batches": [{"p50_ms": ms, "times_as_fast": ratio}]}

    files = {"float32": file(ms, mb), "int8": None if int8 is None else file(*int8)}
    student = {"arch": name}
    return {"name": name, "student": student, "macs": macs, "files": files, "error": None, "refused": {}} | more


@pytest.mark.parametrize(
    ("budget", "ms", "mb", "int8", "fits"),
    [
        (Budget(), 0.5, 1.0, None, None),
        (Budget(speedup=2), 0.5, 1.0, None, "float32"),
        (Budget(speedup=2.1), 0.5, 1.0, None, None),
        (Budget(ms=0.5, mb=1), 0.5, 1.0, None, "float32"),
        (Budget(ms=0.5, mb=0.5), 0.5, 1.0, None, None),
        (Budget(ms=0.5, mb=0.5), 0.5, 1.0, (0.6, 0.3), None),
        (Budget(mb=0.5), 0.5, 1.0, (0.6, 0.3), "int8"),
        (Budget(ms=0.4, mb=0.5), 0.5, 1.0, (0.3, 0.3), "int8"),
        (Budget(speedup=3, mb=0.2), 0.5, 1.0, (0.3, 0.3), None),
    ],
)
def test_what_fits_a_budget(
    budget: Budget, ms: float, mb: float, int8: tuple[float, float] | None, fits: str | None
) -> None:
    assert budget.fits(row("one", ms, mb, int8=int8)) == fits


def test_a_row_without_files_fits_nothing() -> None:
    broken = {"name": "one", "files": {"float32": None, "int8": None}, "error": "it cannot be exported"}
    assert Budget(ms=1000).fits(broken) is None
    assert verdict([broken], Budget(ms=1)) == "Nothing fits --budget-ms 1, because no candidate could be measured."


@pytest.mark.parametrize("value", [0, -3, float("nan"), float("inf")])
def test_a_bound_is_a_positive_number(value: float) -> None:
    with pytest.raises(ParamsError, match=r"--budget-mb is .*: expected a number above 0, such as 3\."):
        Budget(mb=value)


def test_where_nothing_fits_the_nearest_is_named() -> None:
    rows = [row("slow", 0.5, 1.0), row("near", 0.25, 1.2, int8=(0.1, 0.4)), row("large", 0.2, 9.0)]
    said = verdict(rows, Budget(speedup=5, mb=0.5))
    assert said.startswith("Nothing fits --budget-speedup 5 --budget-mb 0.5. The nearest is near: 4.00 times as fast, ")
    assert said.endswith("0.25 ms, 1.2 MB. Only in int8 would these: near.")
    assert verdict(rows, Budget(ms=0.3, mb=1.2)) == "1 of 3 candidates fit --budget-mb 1.2 --budget-ms 0.3: near."
    assert in_words(rows[0]) == "slow: 2.00 times as fast, 0.5 ms, 1 MB"


def test_the_largest_that_no_method_refuses_is_chosen() -> None:
    rows = [row("a", 0.3, 1, 10), row("b", 0.3, 1, 30, refused={"sakd": "no"}), row("c", 0.3, 1, 20)]
    assert survey_choice.choose(rows, Budget(ms=0.3))["name"] == "c"
    with pytest.raises(ParamsError, match=r"refused by methods of params.yaml \(b by sakd\)\. Take these .* changed\."):
        survey_choice.choose(rows[1:2], Budget(ms=0.3))
    with pytest.raises(ParamsError, match=r"^Nothing fits --budget-ms 0.1\. The nearest is a: .* Ask for less"):
        survey_choice.choose(rows, Budget(ms=0.1))
    with pytest.raises(ParamsError, match=r"--choose needs a budget to choose by"):
        survey_choice.check(Budget())


def written(before: Student, student: dict[str, Any], target: Path) -> tuple[str, Student]:
    """What is said, and the section `student` then."""
    said = survey_choice.write(row("new", 1, 1, student=student), before, target)
    return said, parameters.load(target).student


CUT = {"arch": "pruned", "pruned": {"share_of_macs": 0.33, "round_to": 8}}


def test_a_choice_keeps_comments_and_changes_nothing_else(tmp_path: Path) -> None:
    target = Path(shutil.copy(ROOT / "params.yaml", tmp_path))
    before = target.read_text()
    said, student = written(Student(arch="resnet8"), {"arch": "resnet14"}, target)
    assert said == f"{target}: student.arch: resnet8 -> resnet14"
    assert target.read_text() == before.replace("  arch: resnet8\n", "  arch: resnet14\n")
    said, student = written(student, CUT, target)
    assert "student.arch: resnet14 -> pruned; student.pruned: (not set) -> {'share_of_macs': 0.33" in said
    assert target.read_text() == before.replace(
        "  arch: resnet8\n", "  arch: pruned\n  pruned:\n    share_of_macs: 0.33\n    round_to: 8\n"
    )
    said, student = written(student, CUT, target)
    assert said == f"{target}: student.arch already says new"
    _, student = written(student, {"arch": "resnet14"}, target)
    assert (student.arch, student.pruned) == ("resnet14", None)


def test_a_choice_leaves_no_setting_that_contradicts_it(tmp_path: Path) -> None:
    target = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text()
    cut = "  arch: pruned\n  pruned: {speedup: 3, importance: taylor}\n"
    target.write_text(text.replace("  arch: resnet8\n", cut))
    _, student = written(parameters.load(target).student, CUT, target)
    assert student.pruned is not None
    assert (student.pruned.speedup, student.pruned.share_of_macs, student.pruned.importance) == (None, 0.33, "taylor")
    whole = "  arch: timm/resnet18\n  pretrained: true # as for the teacher\n"
    target.write_text(text.replace("  arch: resnet8\n  pretrained: false # as for the teacher\n", whole))
    student = parameters.load(target).student
    _, student = written(student, {"arch": "timm/resnet34"}, target)
    assert student.pretrained
    _, student = written(student, CUT, target)
    assert not student.pretrained
