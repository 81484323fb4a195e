"""Rows and sentences about data and classes, for the page and for RESULTS.md alike."""

from pipeline.data.unlabelled import UNLABELLED
from pipeline.report.artefacts.analysed import ClassScores
from pipeline.report.artefacts.audited import Audit, Extent
from pipeline.report.artefacts.results import Results
from pipeline.report.findings.formats import NONE, count, percent, span

SPLITS = ("", "images", "per class", "looked at", "not usable", "dropped", "duplicates", "width px", "height px")
"""Titles of `splits`."""
CLASSES = ("", "images", "top-1 %", "95 % interval", "teacher %", "agrees with teacher %")
"""Titles of `class_row`."""
CONFUSIONS = ("true class", "taken for", "images", "% of the class")
"""Titles of `confusions`."""
_KINDS = {"wrong_extension": "wrong extension", "leak": "in two splits", "conflict": "under two labels"}
"""Where the kind's own name says too little."""


def splits(results: Results) -> list[tuple[str, ...]]:
    """A row of each split: what is in it, and what the audit saw on the way there."""
    rows = []
    for split, number in results.data.counts.items():
        joined = split == "train" and results.data.train_includes_val
        row = [f"{split}, with val" if joined else split, count(number), class_range(results, split)]
        it = results.audit.splits.get(split)
        if it is None:
            row += [NONE] * 6
        else:
            row += [
                *map(count, (it.images, it.bad, it.dropped, it.duplicates)),
                _extent(it.width_px),
                _extent(it.height_px),
            ]
        rows.append(tuple(row))
    if (it := results.audit.splits.get(UNLABELLED)) is not None:
        seen = (
            *map(count, (it.images, it.bad, it.dropped, it.duplicates)),
            _extent(it.width_px),
            _extent(it.height_px),
        )
        rows.append((UNLABELLED, count(it.kept), NONE, *seen))
    return rows


def class_range(results: Results, split: str) -> str:
    """Images per class of a split: 45, or 40 to 52."""
    counts = results.data.class_counts[split]
    return _range(min(counts), max(counts))


def kind(name: str) -> str:
    """What the audit calls a kind of finding, in words."""
    return _KINDS.get(name, name)


def found(results: Results) -> str:
    """What the audit found, by kind, and what was done about it."""
    audit = results.audit
    there = [f"{count(number)} {kind(name)}" for name, number in audit.counts.items() if number]
    absent = [kind(name) for name, number in audit.counts.items() if not number]
    looked = f"Every image was opened before anything trained. Found: {', '.join(there) or 'nothing'}."
    if absent and there:
        looked += f" Looked for and not found: {', '.join(absent)}."
    skips = " Images that cannot be used are left out (data.on_bad: skip)." if audit.on_bad == "skip" else ""
    drops = {
        "drop": " Images that are in two splits were dropped from one (data.leaks: drop).",
        "report": " Images that are in two splits stay (data.leaks: report).",
    }
    without = audit.splits[UNLABELLED].dropped if UNLABELLED in audit.splits else 0
    labelled = drops.get(audit.leaks, "") if audit.counts.get("leak", 0) > without else ""
    if results.data.train_includes_val:
        labelled += " Val is trained on too (data.train_includes_val): what train shares with it is a repetition."
    copies = f" {count(without)} images without labels are copies of labelled ones and were dropped." if without else ""
    return looked + skips + labelled + copies + _in_source(audit)


def _in_source(audit: Audit) -> str:
    """What the source's own splits share, where that differs from what the prepared ones do."""
    it = audit.source_splits
    if (it.leaks, it.repeats) == (audit.counts.get("leak", 0), audit.counts.get("duplicate", 0)):
        return ""
    return (
        f" In the source's own splits, before val was drawn from train, {count(it.leaks)} images are in two splits and "
        f"{count(it.repeats)} stand a second time in theirs."
    )


def class_row(it: ClassScores) -> list[str]:
    """Of one class: name, images, top-1 and interval, the teacher's top-1, agreement."""
    top1, teacher, agreement = (
        NONE if value is None else percent(value) for value in (it.top1, it.teacher_top1, it.agreement)
    )
    return [it.label, count(it.images), top1, NONE if it.interval is None else span(it.interval), teacher, agreement]


def confusions(results: Results) -> list[tuple[str, ...]]:
    """Rows of true class, predicted class, images, their share of the true class in percent; the largest first."""
    return [(it.true, it.predicted, count(it.images), percent(it.share)) for it in results.analysis.largest_confusions]


def against_teacher(results: Results) -> str | None:
    """How many test images student and teacher get right, in words; None where they were not compared."""
    it, agreement = results.analysis.against_teacher, results.deployed.test.top1_agreement
    if it is None:
        return None
    same = "" if agreement is None else f" They give the same answer on {percent(agreement)} %."
    return (
        f"Of {count(results.deployed.images)} test images, both networks get {count(it.both)} right, the student alone "
        f"{count(it.only_student)}, the teacher alone {count(it.only_teacher)}, and neither {count(it.neither)}.{same}"
    )


def _extent(it: Extent | None) -> str:
    return NONE if it is None else _range(it.min, it.max)


def _range(low: int, high: int) -> str:
    return count(low) if low == high else f"{count(low)} to {count(high)}"
