"""Images that only one of student and teacher gets right, and the student's most confident mistakes."""

from pipeline.report.artefacts.results import Results
from pipeline.report.findings import data_and_classes
from pipeline.report.templates import Section, fill


def section(results: Results) -> Section:
    """Pictures with what was said of them."""
    html = fill("examples.html.jinja", against=data_and_classes.against_teacher(results), it=results.examples)
    return Section("examples", "Examples", html)
