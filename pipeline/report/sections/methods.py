"""The table of methods, with published figures beside them, and the sizes of the networks."""

from markupsafe import Markup

from pipeline.report.artefacts.results import Network, Results
from pipeline.report.findings import formats, wording
from pipeline.report.templates import Section, fill


def section(results: Results) -> Section:
    """Every method over its seeds."""
    html = fill(
        "methods.html.jinja",
        titles=wording.method_titles(results),
        groups=[[_row(results, results.teacher)], [_row(results, network) for network in results.methods]],
        notes=wording.notes(results),
        sizes=wording.sizes(results),
        size_titles=wording.SIZE_TITLES,
    )
    return Section("methods", "Methods", html)


def _row(results: Results, network: Network) -> list[str | Markup]:
    top1, it = network.test["top1"], network.gain
    name = Markup("{} <small class=ships>ships</small>") if network.deployed else Markup("{}")
    best = Markup("<strong class=best>{}</strong> <small>{}</small>")
    other = Markup("{} <small>{}</small>")
    gain: str | Markup = formats.NONE
    if it is not None:
        interval = "" if it.interval is None else formats.bounds(it.interval)
        gain = Markup("{} <small>{}{}</small>").format(formats.points(it.points), interval, " tie" if it.tie else "")
    return [
        name.format(network.name),
        str(len(network.seeds)),
        (best if network.ties_with_best else other).format(formats.percent(top1.mean), formats.uncertainty(top1)),
        gain,
        *([wording.published(network)] if wording.has_published(results) else []),
        formats.percent(network.val_last.mean),
        formats.NONE if network.val_best is None else formats.percent(network.val_best.mean),
        *wording.scores(results, network),
    ]
