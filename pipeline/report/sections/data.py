"""The data: splits, what the audit found, and how the classes are filled."""

from markupsafe import Markup

from pipeline.report import class_plots, findings, formats
from pipeline.report.audited import Finding
from pipeline.report.results import Results
from pipeline.report.templates import Section, fill

PICTURES = 24
"""Of offenders. At 64 px they are 0.4 MB at worst, as noise."""
ROWS = 100
"""Of offenders without a picture; audit.json has all."""


def section(results: Results) -> Section:
    """Tables, pictures of what is wrong, and a plot where classes differ in size."""
    listed = results.audit.findings
    pictured = [it for it in listed if it.thumbnail is not None][:PICTURES]
    others = [it for it in listed if it not in pictured]
    counts = results.data.class_counts["train"]
    html = fill(
        "data.html.jinja",
        r=results,
        titles=findings.SPLITS,
        splits=findings.splits(results),
        found=findings.found(results),
        pictured=pictured,
        kind=findings.kind,
        others=[_row(it) for it in others[:ROWS]],
        more=len(others) - len(others[:ROWS]),
        balance=Markup(class_plots.balance(results)) if min(counts) != max(counts) else None,
        mean=formats.channels(results.data.normalization.mean),
        std=formats.channels(results.data.normalization.std),
    )
    return Section("data", "Data", html)


def _row(finding: Finding) -> list[str]:
    return [finding.name, finding.split, findings.kind(finding.kind), finding.label, finding.reason]
