"""What every student would cost on this machine, before a teacher is trained. No stage of the DAG.

    python -m stages.survey --budget-speedup 3 --budget-mb 0.2 --choose

Rows and choices are made in pipeline/choosing, and exported files are called in serve/timing.
"""

import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.choosing import budget as budgets
from pipeline.choosing import candidates as students
from pipeline.choosing import survey as surveys
from pipeline.choosing import survey_choice, survey_picture, survey_table
from pipeline.choosing.budget import Budget
from pipeline.choosing.survey_book import Book
from pipeline.models.base import Classifier
from pipeline.settings import params as parameters
from pipeline.settings.params import Params
from pipeline.system.errors import StoppedError
from serve import machine
from serve.errors import ServeError
from serve.timing import benchmark
from stages import _run, _survey_files

_VERSIONS = ("torch", "onnx", "onnxruntime", "numpy", "timm", "torch-pruning")


def survey(
    candidates: str = students.ALL,
    budget_speedup: float | None = None,
    budget_mb: float | None = None,
    budget_ms: float | None = None,
    choose: bool = False,
    params: Path = Path("params.yaml"),
    data: Path = Path("data/prepared"),
    out: Path = Path("report/survey"),
) -> None:
    """Export and time students with random weights beside the teacher; write survey.json and survey.svg to --out.

    --candidates are names separated by commas, of timm with wildcards; `pruned` are all cuts of the teacher, `all` is
    every network here that is smaller, and the cuts. --budget-... mark what fits; --choose writes the largest that fits
    and that no method refuses into --params. The same command goes on where it was stopped.
    """
    budget = Budget(budget_speedup, budget_mb, budget_ms)
    settings = parameters.load(params)
    parameters.check_all(settings)
    if choose:
        survey_choice.check(budget)
    asked = students.listed(candidates)
    teacher = surveys.teacher_of(settings, data)
    book = Book(out / "survey.json", _measured_with(settings, teacher), budget)
    for remark in filter(None, (benchmark.busy(), book.again())):
        _say(remark)
    measure = partial(_survey_files.measure, threads=settings.benchmark.threads)
    try:
        surveys.survey(settings, teacher, asked, measure, book, _say)
    except KeyboardInterrupt as stopped:
        raise StoppedError(
            f"stopped, with {len(book.rows)} candidates measured. The same command goes on from there.",
            signal.SIGINT,
        ) from stopped
    assert book.teacher is not None, "a survey begins with its teacher"
    book.write()
    rows = [book.rows[one.name] for one in asked if one.name in book.rows]
    survey_picture.draw(out / "survey.svg", book.teacher, rows, budget)
    print(survey_table.text(book.teacher, rows, budget))
    chosen = survey_choice.choose(rows, budget) if choose else None
    if budget.bounds():
        print(budgets.verdict(rows, budget))
    if chosen is not None:
        print(survey_choice.write(chosen, settings.student, params))


def _measured_with(settings: Params, teacher: Classifier) -> dict[str, Any]:
    """All that measurements depend on; what differs makes them void."""
    return {
        "teacher": dict(teacher.spec),
        "image_px": settings.data.image_px,
        **({} if settings.student_px == settings.data.image_px else {"student_px": settings.student_px}),
        "opset": settings.deploy.opset,
        "threads": settings.benchmark.threads,
        "batch_sizes": list(_survey_files.BATCH_SIZES),
        "machine": machine.describe(),
        "versions": machine.versions(*_VERSIONS),
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    _run.main(survey, ServeError)
