"""The answer: how much smaller, how much faster, how much less accurate, and what the teacher was worth."""

from markupsafe import Markup

from pipeline.report.artefacts.results import Results
from pipeline.report.findings import verdict, wording
from pipeline.report.findings.remarks import remarks
from pipeline.report.templates import fill


def render(results: Results) -> Markup:
    """The head of the page."""
    return fill(
        "answer.html.jinja",
        r=results,
        headline=verdict.headline(results),
        distillation=verdict.distillation(results),
        remarks=remarks(results),
        details=verdict.details(results),
        machine=wording.machine(results),
        shares=shares(results),
    )


def shares(results: Results) -> list[tuple[str, float]]:
    """What of the teacher's cost and accuracy the student has, as (label, fraction of 1)."""
    student, teacher, ships = results.deployed, results.teacher_evaluation, results.shipped
    batch = results.latency.smallest_batch()
    return [
        ("File", ships.size_bytes / ships.teacher_size_bytes),
        ("Parameters", student.num_parameters / teacher.num_parameters),
        ("Multiplications", student.macs / teacher.macs),
        (f"Time at batch {batch.batch_size}", 1 / results.speed(batch).median),
        ("Top-1 accuracy", ships.top1 / teacher.test.top1 if teacher.test.top1 else 0.0),
    ]
