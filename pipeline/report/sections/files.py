"""The files that ship: the export against the trained network, and the student in fewer bits."""

from pipeline.report.artefacts.results import Results
from pipeline.report.findings import wording
from pipeline.report.templates import Section, fill


def section(results: Results) -> Section:
    """Parity, and what the gate said of each form of the student."""
    html = fill("files.html.jinja", w=wording, r=results)
    return Section("files", "The files that ship", html)
