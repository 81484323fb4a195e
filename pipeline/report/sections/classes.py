"""Where the student is right and wrong: by class, by pair of classes, and by how sure it is."""

from collections.abc import Sequence

from markupsafe import Markup

from pipeline.report.artefacts import examples as pictures
from pipeline.report.artefacts.analysed import ClassScores
from pipeline.report.artefacts.results import Results
from pipeline.report.findings import data_and_classes, formats
from pipeline.report.pictures import class_plots
from pipeline.report.templates import Section, fill

NAMED = 5
"""Classes at either end."""
ALL = 400
"""Most classes that the page lists; analysis.json has all."""
CONFUSED = 10


def section(results: Results) -> Section:
    """Of the student that ships, in float32."""
    analysis = results.analysis
    ranked = [it for _, it in analysis.ranked()]
    few = len(ranked) <= 2 * NAMED
    html = fill(
        "classes.html.jinja",
        r=results,
        titles=data_and_classes.CLASSES,
        ends=[_rows(ranked)] if few else [_rows(ranked[:NAMED]), _rows(ranked[-NAMED:])],
        everyone=[] if few or len(ranked) > ALL else _rows(analysis.classes),
        top1=Markup(class_plots.top1_by_class(results)),
        confusions=data_and_classes.confusions(results)[:CONFUSED],
        confusion_titles=data_and_classes.CONFUSIONS,
        matrix=None if analysis.confusion is None else pictures.matrix(analysis.confusion),
        reliability=Markup(class_plots.reliability(results)),
        ece=formats.decimal(results.deployed.test.ece),
    )
    return Section("classes", "Classes and confidence", html)


def _rows(classes: Sequence[ClassScores]) -> list[list[str]]:
    return [data_and_classes.class_row(it) for it in classes]
