"""RESULTS.md: the numbers of the page, without its plots, for places that render Markdown."""

import re
from collections.abc import Iterable, Sequence

from pipeline.report import formats as f
from pipeline.report import timings as t
from pipeline.report import wording as w
from pipeline.report.collect import Network, Results

_NAMED_CLASSES = 20


def render(results: Results) -> str:
    """The whole file."""
    headline = "".join(f"**{escape(text)}**" if strong else escape(text) for text, strong in w.headline(results))
    sections = [
        "# Results",
        headline,
        f"Timed in ONNX Runtime on {escape(w.machine(results))}.",
        "## Methods",
        _methods(results),
        "\n".join(f"- {escape(note)}" for note in w.notes(results)),
        _sizes(results),
        "## Latency",
        _ratios(results),
        "Milliseconds per call:",
        _timings(results),
        f"{f.NONE}: too few samples for that percentile.",
        *_alone(results),
        "## Parity of the export",
        "The ONNX file against the trained network, on real test images, both in float32.",
        _parity(results),
        "## The student in fewer bits",
        "Validation top-1 alone decides what is accepted. Agreement and SQNR (of logits) are on validation too.",
        table(w.STUDENT_FILE_TITLES, ([*map(escape, row)] for row in w.student_files(results)), words=2),
        *(escape(refusal) for refusal in w.refusals(results)),
        "## Data",
        _data(results),
        "## Provenance",
        "To make this file again, check out the same code and parameters and run `dvc repro`.",
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


def _methods(results: Results) -> str:
    columns = w.columns(results)

    def row(network: Network) -> list[str]:
        top1 = f.with_spread(network.test["top1"])
        scores = [
            column.number(network.test[column.key].mean) if column.key in network.test else f.NONE for column in columns
        ]
        return [
            escape(network.name) + (" (ships)" if network.deployed else ""),
            str(len(network.seeds)),
            f"**{top1}**" if network.ties_with_best else top1,
            w.gain(network),
            f.percent(network.val_last.mean),
            f.NONE if network.val_best is None else f.percent(network.val_best.mean),
            *scores,
        ]

    titles = ["", "n", "test top-1 %", "over vanilla", "val last epoch %", "val best epoch %"]
    return table([*titles, *(column.title for column in columns)], map(row, results.networks()))


def _sizes(results: Results) -> str:
    rows = [[escape(who), escape(arch), *numbers] for who, arch, *numbers in w.sizes(results)]
    return table(["", "network", "parameters", "multiplications per image", "weights file"], rows, words=2)


def _ratios(results: Results) -> str:
    batches = results.latency.batches
    rows = [
        [
            *map(escape, t.contrast(name)),
            *(f.ratio(batch.ratios[name]) if name in batch.ratios else f.NONE for batch in batches),
        ]
        for name in batches[0].ratios
    ]
    titles = ["", "time ratio [95 % interval]", *(f"batch {batch.batch_size}" for batch in batches)]
    return table(titles, rows, words=2)


def _timings(results: Results) -> str:
    rows = [
        [
            escape(t.candidate(name)),
            str(batch.batch_size),
            *map(f.milliseconds, (timing.p50_ms, timing.p90_ms, timing.p99_ms)),
            f.count(timing.n),
        ]
        for batch in results.latency.batches
        for name, timing in batch.candidates.items()
    ]
    return table(["", "batch", "p50", "p90", "p99", "n"], rows)


def _alone(results: Results) -> list[str]:
    """Threads, fresh processes and LoadGen, each with its note, as far as they were measured."""
    sizes = [f"batch {batch.batch_size}" for batch in results.latency.batches]
    parts: list[str] = []
    for heading, note, titles, rows, words in (
        ("Milliseconds per call (p50) by number of threads:", "", ["", "threads", *sizes], t.threads(results), 1),
        ("In a process of its own:", t.starts_note(results), ["", *t.STARTS], t.starts(results), 1),
        ("MLPerf's scenarios:", t.scenarios_note(results), ["", *t.SCENARIOS], t.scenarios(results), 3),
    ):
        if rows:
            parts += [heading, table(titles, [list(map(escape, row)) for row in rows], words), escape(note)]
    parts += [escape(f"Not timed: {why}.") for why in results.latency.left_out.values()]
    return list(filter(None, parts))


def _parity(results: Results) -> str:
    rows = [
        [
            name,
            str(record.batch_size),
            f.tiny(record.max_probability_error),
            f.tiny(record.max_logit_error),
            "yes" if record.top1_equal else "no",
        ]
        for name, records in (("student", results.parity.student), ("teacher", results.parity.teacher))
        for record in records
    ]
    return table(["", "batch", "largest error of a probability", "of a logit", "top-1 equal"], rows)


def _data(results: Results) -> str:
    card = results.data
    named = ", ".join(map(escape, card.labels[:_NAMED_CLASSES]))
    more = card.num_classes - _NAMED_CLASSES
    mean, std = f.channels(card.normalization.mean), f.channels(card.normalization.std)
    splits = table(
        ["", "images", "per class"],
        [[escape(split), f.count(number), w.class_range(results, split)] for split, number in card.counts.items()],
    )
    return "\n\n".join(
        [
            f"{escape(card.source)}, {card.image_px} x {card.image_px} px, "
            f"licence: {escape(card.licence or 'not stated')}. "
            f"{f.count(card.num_classes)} classes: {named}{f', and {f.count(more)} more' if more > 0 else ''}.",
            splits,
            f"Of train, pixels in \\[0, 1\\]: mean {mean}; std {std}.",
        ]
    )
