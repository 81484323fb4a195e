"""Images that only one of student and teacher gets right, and the student's most confident mistakes."""

from pipeline.report import findings
from pipeline.report.results import Results
from pipeline.report.templates import Section, fill


def section(results: Results) -> Section:
    """Pictures with what was said of them."""
    html = fill("examples.html.jinja", against=findings.against_teacher(results), it=results.examples)
    return Section("examples", "Examples", html)
