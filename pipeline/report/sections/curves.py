"""Learning curves of the teacher and of every method."""

from markupsafe import Markup

from pipeline.report.artefacts.results import Results
from pipeline.report.pictures import plots
from pipeline.report.templates import Section, fill


def section(results: Results) -> Section:
    """Validation top-1 by epoch."""
    html = fill("curves.html.jinja", r=results, plot=Markup(plots.learning_curves(results)))
    return Section("curves", "Learning curves", html)
