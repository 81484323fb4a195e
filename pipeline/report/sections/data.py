"""The data: splits, what the audit found, and how the classes are filled."""

from collections.abc import Sequence

from markupsafe import Markup

from pipeline.report.artefacts.audited import Finding
from pipeline.report.artefacts.results import Results
from pipeline.report.findings import data_and_classes, formats
from pipeline.report.pictures import class_plots
from pipeline.report.templates import Section, fill

PICTURES = 18
"""Of one kind of finding."""
AT_ONCE = 6
"""Of them, not folded away."""
PICTURE_CHARACTERS = 400_000
"""Of all pictures in base64, so that the page stays small."""
ROWS = 100
"""Of findings without a picture; audit.json has all."""


def section(results: Results) -> Section:
    """Tables, pictures of what is wrong, and a plot where classes differ in size."""
    kinds, others = pictured(results.audit.findings)
    counts = results.data.class_counts["train"]
    html = fill(
        "data.html.jinja",
        r=results,
        titles=data_and_classes.SPLITS,
        splits=data_and_classes.splits(results),
        found=data_and_classes.found(results),
        at_once=AT_ONCE,
        kinds={data_and_classes.kind(name): listed for name, listed in kinds.items()},
        others=[(it.name, it.split, data_and_classes.kind(it.kind), it.label, it.reason) for it in others[:ROWS]],
        more=max(0, len(others) - ROWS),
        balance=Markup(class_plots.balance(results)) if min(counts) != max(counts) else None,
        mean=formats.channels(results.data.normalization.mean),
        std=formats.channels(results.data.normalization.std),
    )
    return Section("data", "Data", html)


def pictured(listed: Sequence[Finding]) -> tuple[dict[str, list[Finding]], list[Finding]]:
    """Findings to show as pictures, by kind, and all others."""
    kinds: dict[str, list[Finding]] = {}
    others, left = [], PICTURE_CHARACTERS
    for it in listed:
        size = len(it.thumbnail or "")
        if not 0 < size <= left or len(kinds.get(it.kind, ())) == PICTURES:
            others.append(it)
            continue
        kinds.setdefault(it.kind, []).append(it)
        left -= size
    return kinds, others
