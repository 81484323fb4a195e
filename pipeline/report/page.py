"""The report as one HTML file that needs nothing beside it: no network, no script."""

from pathlib import Path

from markupsafe import Markup

from pipeline.report.artefacts.results import Results
from pipeline.report.attention import style as attention_style
from pipeline.report.findings import formats
from pipeline.report.sections import (
    answer,
    attention,
    classes,
    cost,
    curves,
    data,
    examples,
    files,
    latency,
    methods,
    provenance,
)
from pipeline.report.templates import fill

_SECTIONS = (data, curves, methods, cost, classes, attention, examples, latency, files, provenance)
"""In the order of the page, behind the answer."""
_STYLE = "page.css"
_PAGE = "page.html.jinja"


def render(results: Results) -> str:
    """The whole page. Whatever comes from data or parameters is escaped; only plots and fragments are markup."""
    html = fill(
        _PAGE,
        title=f"{results.deployed.arch} from {results.teacher.arch} on {results.data.source}: Pupil",
        style=Markup(Path(__file__).with_name(_STYLE).read_text(encoding="utf-8")) + attention_style(),
        answer=answer.render(results),
        sections=[module.section(results) for module in _SECTIONS],
    )
    # Lines do not break between a number and its sign.
    return str(html).replace(" %", "\u00a0%").replace(f"{formats.PLUS_MINUS} ", f"{formats.PLUS_MINUS}\u00a0")
