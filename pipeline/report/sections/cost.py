"""Accuracy against what it costs: latency, and parameters."""

from markupsafe import Markup

from pipeline.report.artefacts.measured import parts
from pipeline.report.artefacts.results import Results
from pipeline.report.pictures import plots
from pipeline.report.templates import Section, fill


def section(results: Results) -> Section:
    """Two plots."""
    formats = [it.name for it in results.latency.candidates if parts(it.name)[1] != "fp32"]
    html = fill(
        "cost.html.jinja",
        r=results,
        formats=formats,
        latency=Markup(plots.accuracy_against_latency(results)),
        parameters=Markup(plots.accuracy_against_parameters(results)),
    )
    return Section("cost", "Accuracy and cost", html)
