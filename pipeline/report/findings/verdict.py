"""The answer that the report begins with, for the page and for RESULTS.md alike."""

import math

from pipeline.evaluation.comparison import BASELINE
from pipeline.report.artefacts.measured import TEACHER_ONNX, Batch, Ratio
from pipeline.report.artefacts.records import Difference
from pipeline.report.artefacts.results import Results
from pipeline.report.findings.formats import bounds, count, interval, milliseconds, percent, probability, share, size

_RAREST = 6
"""Powers of ten: beyond once in a million, a test's assumptions fail before chance does."""


def headline(results: Results) -> list[tuple[str, bool]]:
    """The answer in one sentence, as pieces of text; True where a piece is one of its numbers."""
    student, ships = results.deployed, results.shipped
    return [
        (f"The student ({student.arch} by {student.method}, {ships.number_format}) is ", False),
        (f"{share(ships.size_bytes / ships.teacher_size_bytes)} the size", True),
        (f" of its teacher ({results.teacher.arch}), ", False),
        *_speed(results.speed(results.latency.smallest_batch())),
        (", and is ", False),
        *_accuracy(ships.against_teacher),
        (".", False),
    ]


def details(results: Results) -> str:
    """What the ratios of the headline were made of."""
    ships, batch = results.shipped, results.latency.smallest_batch()
    student, teacher = (batch.candidates[name].p50_ms for name in (ships.candidate, TEACHER_ONNX))
    low, high = ships.against_teacher.interval
    doubt = ", a difference that may be chance" if low <= 0 <= high else ""
    return (
        f"{size(ships.size_bytes)} against {size(ships.teacher_size_bytes)}; {milliseconds(student)} against "
        f"{milliseconds(teacher)} ms a call at batch {batch.batch_size} (p50); {percent(ships.top1)} against "
        f"{percent(results.teacher_evaluation.test.top1)} % of {count(results.deployed.images)} test images{doubt}. "
        f"{_pause(batch, ships.candidate)}{_choice(results)}Brackets are 95 % intervals."
    )


def _pause(batch: Batch, ships: str) -> str:
    """What a user of a rarely called server waits for; empty where it was not measured."""
    it = batch.after_pause
    if it is None:
        return ""
    student, teacher = (milliseconds(it.p50_ms[name]) for name in (ships, TEACHER_ONNX))
    return f"The first call after a pause of {it.pause_ms:g} ms takes {student} against {teacher} ms (p50). "


def _choice(results: Results) -> str:
    """From how many the student was chosen, and by what; empty where params.yaml names it."""
    it = results.chosen
    students = it.of_methods * it.of_seeds
    if students == 1:
        return ""
    return (
        f"It was chosen from {count(students)} students (methods: {it.of_methods}, seeds: {it.of_seeds}) by the "
        f"highest top-1 on validation, {percent(it.val_top1)} % of {count(results.data.counts['val'])} images. "
    )


def distillation(results: Results) -> str:
    """What the teacher was worth: the student that ships against the same network trained without one."""
    it = results.deployed
    if it.method == BASELINE:
        return f"This student was trained without its teacher ({BASELINE}), so nothing here comes from distillation."
    pair = results.comparison.pair(it.method, it.seed, BASELINE)
    if pair is None:
        return (
            f"What distillation added is not known: {BASELINE}, the student trained without its teacher, is not there."
        )
    gained = f"{percent(abs(pair.difference))} points {'more' if pair.difference >= 0 else 'fewer'}"
    return (
        f"Trained without its teacher ({BASELINE}, same seed), the student scores "
        f"{percent(it.test.top1 - pair.difference)} %; distilled by {it.method}, {gained} {bounds(pair.interval)}. "
        f"Of the test images, {count(pair.only_this)} only the distilled one gets right, {count(pair.only_other)} "
        f"only the other; were both equally good, so uneven a split would come up {_chance(pair.mcnemar_p)} "
        f"(McNemar's test, p {probability(pair.mcnemar_p)})."
    )


def _accuracy(value: Difference) -> list[tuple[str, bool]]:
    rounded = percent(abs(value.difference))
    said = f"{rounded} points {'less' if value.difference < 0 else 'more'} accurate"
    if float(rounded) == 0:
        said = "as accurate"
    return [(said, True), (f" {bounds(value.interval)}", False)]


def _chance(p: float) -> str:
    """A probability in words: 12 times in 100; less than once in 10,000."""
    if p >= 0.01:
        return f"{100 * p:.0f} times in 100"
    power = _RAREST if p == 0 else min(_RAREST, math.floor(-math.log10(p)))
    return f"less than once in {count(10**power)}"


def _speed(value: Ratio) -> list[tuple[str, bool]]:
    verb, said = "answers ", "as fast"
    if value.median < 1:
        value = Ratio(median=1 / value.median, low=1 / value.high, high=1 / value.low)
        verb, said = "takes ", "as long"
    return [(verb, False), (f"{value.median:.2f} times {said}", True), (f" {interval(value)}", False)]
