"""What the numbers were made from and with, and how to make them again."""

from pipeline.report.artefacts.results import Results
from pipeline.report.findings import wording
from pipeline.report.templates import Section, fill


def section(results: Results) -> Section:
    """Commands and facts."""
    html = fill("provenance.html.jinja", commands=wording.commands(results), facts=wording.provenance(results))
    return Section("provenance", "Provenance", html)
