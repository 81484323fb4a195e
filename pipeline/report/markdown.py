"""RESULTS.md: the numbers of the page, without its plots, for places that render Markdown."""

import re
from collections.abc import Iterable, Sequence
from itertools import chain

from pipeline.report.artefacts.results import Network, Results
from pipeline.report.findings import data_and_classes, verdict
from pipeline.report.findings import formats as f
from pipeline.report.findings import timings as t
from pipeline.report.findings import wording as w
from pipeline.report.findings.remarks import remarks

_NAMED_CLASSES = 20
_END = 5


def render(results: Results) -> str:
    """The whole file."""
    headline = "".join(f"**{escape(text)}**" if strong else escape(text) for text, strong in verdict.headline(results))
    sections = [
        "# Results",
        headline,
        escape(verdict.details(results)),
        f"The file that ships is {escape(results.shipped.file)}. Both were timed in ONNX Runtime on "
        f"{escape(w.machine(results))}.",
        escape(verdict.distillation(results)),
        *(f"**{escape(remark)}**" for remark in remarks(results)),
        "## Methods",
        _methods(results),
        "\n".join(f"- {escape(note)}" for note in w.notes(results)),
        _table(w.SIZE_TITLES, w.sizes(results), words=2),
        "## Classes",
        *_classes(results),
        "## Latency",
        _table(["", "time ratio [95 % interval]", *_batches(results)], t.ratios(results), words=2),
        "Milliseconds per call:",
        _table(t.CALLS, chain(*t.calls(results))),
        escape(t.calls_note(results)),
        *_alone(results),
        "## Parity of the export",
        "The ONNX file against the trained network, on real test images, both in float32.",
        _table(w.PARITY_TITLES, chain(*w.parity(results))),
        "## The student in fewer bits",
        w.gate(results),
        _table(w.student_file_titles(results), w.student_files(results), words=2),
        *(escape(verdict) for verdict in w.verdicts(results)),
        "## Data",
        _data(results),
        "## Provenance",
        "To make this file again: " + ", then ".join(f"`{command}`" for command in w.commands(results)) + ".",
        "\n".join(f"- {escape(label)}: {escape(value)}" for label, value in w.provenance(results)),
    ]
    return "\n\n".join(sections) + "\n"


def escape(text: str) -> str:
    """Text that Markdown and HTML leave alone, on one line, also inside a table."""
    return re.sub(r"([\\`*_\[\]<>|#&~])", r"\\\1", re.sub(r"[\r\n]+", " ", text))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table: the first `words` columns to the left, numbers to the right. Cells are already escaped."""
    rule = [":--" if index < words else "--:" for index in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    return table(titles, ([*map(escape, row)] for row in rows), words)


def _methods(results: Results) -> str:
    shows_published = w.has_published(results)

    def row(network: Network) -> list[str]:
        top1 = f.with_spread(network.test["top1"])
        return [
            escape(network.name) + (" (ships)" if network.deployed else ""),
            str(len(network.seeds)),
            f"**{top1}**" if network.ties_with_best else top1,
            escape(w.gain(network)),
            *([w.published(network)] if shows_published else []),
            f.percent(network.val_last.mean),
            f.NONE if network.val_best is None else f.percent(network.val_best.mean),
            *w.scores(results, network),
        ]

    return table(w.method_titles(results), map(row, results.networks()))


def _classes(results: Results) -> list[str]:
    """The ends of the ranking, the largest confusions, and what student and teacher get right."""
    ranked = [it for _, it in results.analysis.ranked()]
    ends = ranked if len(ranked) <= 2 * _END else [*ranked[:_END], *ranked[-_END:]]
    confusions = data_and_classes.confusions(results)[: 2 * _END]
    against = data_and_classes.against_teacher(results)
    return [
        "Worst and best, of the student that ships in float32:",
        _table(data_and_classes.CLASSES, map(data_and_classes.class_row, ends)),
        *(["Largest confusions:", _table(data_and_classes.CONFUSIONS, confusions, words=2)] if confusions else []),
        *([against] if against else []),
    ]


def _batches(results: Results) -> list[str]:
    return [f"batch {batch.batch_size}" for batch in results.latency.batches]


def _alone(results: Results) -> list[str]:
    """Threads, fresh processes and LoadGen, each with its note, as far as they were measured."""
    parts: list[str] = []
    for heading, note, titles, rows, words in (
        (
            "Milliseconds per call (p50) by number of threads:",
            "",
            ["", "threads", *_batches(results)],
            t.threads(results),
            1,
        ),
        ("In a process of its own:", t.starts_note(results), ["", *t.STARTS], t.starts(results), 1),
        ("MLPerf's scenarios:", t.scenarios_note(results), ["", *t.SCENARIOS], t.scenarios(results), 3),
    ):
        if rows:
            parts += [heading, _table(titles, rows, words), escape(note)]
    parts += [escape(f"Not timed: {why}.") for why in results.latency.left_out.values()]
    return list(filter(None, parts))


def _data(results: Results) -> str:
    card = results.data
    named = ", ".join(map(escape, card.labels[:_NAMED_CLASSES]))
    more = card.num_classes - _NAMED_CLASSES
    px = results.student_px
    smaller = "" if px == card.image_px else f" (the students see {px} x {px} px of the same cut)"
    mean, std = f.channels(card.normalization.mean), f.channels(card.normalization.std)
    return "\n\n".join(
        [
            f"{escape(card.source)}, {card.image_px} x {card.image_px} px{smaller}, "
            f"licence: {escape(card.licence or 'not stated')}. "
            f"{f.count(card.num_classes)} classes: {named}{f', and {f.count(more)} more' if more > 0 else ''}.",
            _table(data_and_classes.SPLITS, data_and_classes.splits(results)),
            escape(data_and_classes.found(results)),
            f"Pixels in \\[0, 1\\] are normalised by mean {mean}; std {std}.",
        ]
    )
