"""Sentences and headings of the report, for the page and for RESULTS.md alike."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.report.collect import TIE_POINTS, Network, Results
from pipeline.report.formats import (
    NONE,
    PLUS_MINUS,
    count,
    decimal,
    interval,
    percent,
    points,
    scaled,
    share,
    size,
)
from pipeline.report.measured import SMALLER_MODEL, Batch, Ratio


@dataclass(frozen=True)
class Column:
    """A score in the table of methods, beside top-1."""

    key: str
    title: str
    number: Callable[[float], str]


def columns(results: Results) -> tuple[Column, ...]:
    """Scores on the test split that follow top-1."""
    return (
        Column("top5", f"top-{min(5, results.data.num_classes)} %", percent),
        Column("nll", "NLL nats", decimal),
        Column("ece", "ECE", decimal),
        Column("top1_agreement", "agrees with teacher %", percent),
    )


def headline(results: Results) -> list[tuple[str, bool]]:
    """The answer in one sentence, as pieces of text; True where a piece is one of its numbers."""
    student, teacher, batch = results.deployed, results.teacher_evaluation, smallest_batch(results)
    difference = student.test.top1 - teacher.test.top1
    more = "less" if difference < 0 else "more"
    accuracy = [("is ", False), (f"{percent(abs(difference))} points {more}", True), (" accurate", False)]
    if round(abs(difference), 9) < TIE_POINTS:
        accuracy = [("is ", False), ("as accurate", True), (f", within {TIE_POINTS} points,", False)]
    return [
        (f"The student ({student.arch}, {student.method}) has ", False),
        (share(student.num_parameters / teacher.num_parameters), True),
        (f" of the parameters of its teacher ({teacher.arch}), ", False),
        *_speed(batch.ratios[SMALLER_MODEL]),
        (f" at batch {batch.batch_size}, and ", False),
        *accuracy,
        (
            f" on the test split ({percent(student.test.top1)} against {percent(teacher.test.top1)} %, "
            f"{count(student.images)} images).",
            False,
        ),
    ]


def smallest_batch(results: Results) -> Batch:
    """The smallest batch size that was timed: 1 unless params.yaml leaves it out."""
    return min(results.latency.batches, key=lambda batch: batch.batch_size)


def machine(results: Results) -> str:
    """Where the latency was measured, and whether the machine was its own."""
    it, timed = results.latency.machine, results.latency
    threads = "1 thread" if timed.threads == 1 else f"{timed.threads} threads"
    load = ", ".join(f"{value:.2f}" for value in timed.load_average)
    busy = " (more than it has cores: other work was in the way)" if timed.load_average[0] > it.cores else ""
    return f"{it.cpu} with {it.cores} cores, on {threads}; load average {load}{busy} before the first call"


def notes(results: Results) -> list[str]:
    """How to read the table of methods, one sentence each."""
    test = results.deployed
    accuracy = test.test.top1 / 100
    standard_error = 100 * math.sqrt(accuracy * (1 - accuracy) / test.images)
    chosen = {"last": "last epoch", "best": "epoch that is best on validation"}[results.select]
    if len(results.seeds["distill"]) == 1:
        spreads = [f"n = 1: the spread between seeds is unknown ({PLUS_MINUS} ?), and any difference may be chance."]
    else:
        spreads = [
            f"{PLUS_MINUS} is the sample standard deviation over n seeds; where n = 1 the spread is unknown.",
            f"The student that ships is {test.method} with seed {test.seed}; the answer above is of that one alone.",
        ]
    return [
        *spreads,
        f"A difference below {TIE_POINTS} points, or below the larger spread of the two, is a tie. "
        "The best student is set in bold, and so is whatever ties with it.",
        f"The choice of {count(test.images)} test images alone gives {percent(test.test.top1)} % a standard error of "
        f"{percent(standard_error)} points.",
        "The other columns are means over the seeds; their spread is in results.json.",
        f"Students trained for {results.student_epochs} epochs; the {chosen} is the one tested.",
    ]


def sizes(results: Results) -> list[tuple[str, str, str, str, str]]:
    """Rows of who, network, parameters, multiplications, weights file: one row for all methods of equal networks."""
    groups: dict[tuple[str, int, int], list[Network]] = {}
    for network in results.methods:
        groups.setdefault((network.arch, network.num_parameters, network.macs), []).append(network)
    rows = [("teacher", results.teacher)]
    for members in groups.values():
        who = "every student" if len(groups) == 1 else ", ".join(network.name for network in members)
        rows.append((who, members[0]))
    return [(who, n.arch, count(n.num_parameters), scaled(n.macs), size(n.size_bytes)) for who, n in rows]


def student_files(results: Results) -> list[tuple[str, ...]]:
    """Rows of file, verdict, validation and test top-1, agreement with float32 and SQNR on validation, size."""
    rows: list[tuple[str, ...]] = []
    for it in results.quantization.students.values():
        val, test = it.val, it.test
        verdict = "accepted" if it.accepted else "refused"
        rows.append(
            (
                it.file,
                "deployed on CPUs" if it.file == results.quantization.deployed else verdict,
                NONE if val is None else percent(val.top1),
                NONE if test is None else percent(test.top1),
                NONE if val is None else percent(val.float32_agreement),
                NONE if val is None or val.sqnr_db is None else f"{val.sqnr_db:.1f}",
                size(it.size_bytes),
            )
        )
    return rows


STUDENT_FILE_TITLES = ("", "", "val top-1 %", "test top-1 %", "agrees with float32 %", "SQNR dB", "size")
"""Of the columns of `student_files`."""


def refusals(results: Results) -> list[str]:
    """Why files were refused, one sentence each."""
    return [f"{it.file}: {it.reason}." for it in results.quantization.students.values() if not it.accepted]


def gain(network: Network) -> str:
    """Gain over the baseline, with the word where it is a tie."""
    return NONE if network.gain is None else points(network.gain.points) + (" tie" if network.gain.tie else "")


def class_range(results: Results, split: str) -> str:
    """Images per class of a split: 45, or 40 to 52."""
    counts = results.data.class_counts[split]
    low, high = count(min(counts)), count(max(counts))
    return low if low == high else f"{low} to {high}"


def provenance(results: Results) -> list[tuple[str, str]]:
    """What the numbers were made from and with, as (label, value)."""
    it = results.latency.machine
    packages = [f"Python {it.python}", *(f"{name} {version}" for name, version in sorted(it.packages.items()))]
    seeds = [f"{who} {', '.join(map(str, drawn))}" for who, drawn in results.seeds.items()]
    facts = [
        ("params.yaml", f"sha256 {results.params_sha256}"),
        *((f"data, {name}", f"sha256 {digest}") for name, digest in sorted(results.data.sha256.items())),
        ("Seeds", "; ".join(seeds)),
        ("Packages", ", ".join(packages)),
        ("Machine", f"{it.cpu}, {it.cores} cores, {it.os}"),
    ]
    if it.governor is not None:
        facts.append(("CPU governor", it.governor))
    if it.gpus:
        facts.append(("GPUs", ", ".join(it.gpus)))
    return facts


def _speed(value: Ratio) -> list[tuple[str, bool]]:
    verb, end = "answers ", "as fast"
    if value.median < 1:
        value = Ratio(median=1 / value.median, low=1 / value.high, high=1 / value.low)
        verb, end = "takes ", "as long"
    return [(verb, False), (f"{value.median:.2f} times", True), (f" {interval(value)} {end}", False)]
