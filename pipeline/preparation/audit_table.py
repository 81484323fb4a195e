"""The audit on a screen of 100 columns: what was looked at, what was found, and the first of it."""

from textwrap import wrap

from pipeline.data.unlabelled import UNLABELLED
from pipeline.preparation.audit import Audit, Spread
from pipeline.system.columns import aligned

WIDTH = 100
NAMED = 20
"""Findings that are shown; audit.json has them all."""


def text(audit: Audit) -> str:
    """Lines without one at the end."""
    total = sum(split.images for split in audit.splits.values())
    left_out = sum(group.count for group in audit.left_out)
    lines = [
        f"Audit of {audit.source}: {total:,} images opened" + (f", {left_out:,} files left out" if left_out else "")
    ]
    lines += aligned(
        [
            ("split", "opened", "bad", "dropped", "kept", "repeats", "in a class", "width px", "height px"),
            *(
                (
                    name,
                    *(f"{number:,}" for number in (it.images, it.bad, it.dropped, it.kept, it.duplicates)),
                    *map(_spread, (it.class_images, it.width_px, it.height_px)),
                )
                for name, it in audit.splits.items()
            ),
        ],
        right=range(1, 6),
    )
    if UNLABELLED in audit.splits:
        copies = audit.splits[UNLABELLED].dropped
        lines.append(f"Of the images without labels, {copies:,} are copies of labelled ones and are dropped.")
    if audit.train_includes_val:
        lines.append("val is trained on too (data.train_includes_val): what train shares with it is a repetition.")
    home = audit.source_splits
    if home.leaks or home.repeats:
        lines.append(
            f"In the source's own splits {home.leaks:,} images leak into another split, "
            f"{home.repeats:,} stand twice in one."
        )
    found = [f"{kind} {count:,}" for kind, count in audit.counts.items() if count]
    missed = [kind for kind, count in audit.counts.items() if not count]
    lines += wrap(f"Found: {', '.join(found) or 'nothing'}.", WIDTH)
    if missed:
        lines += wrap(f"Not found: {', '.join(missed)}.", WIDTH)
    shown = [audit.findings[number] for number in audit.foremost(NAMED)]
    if shown:
        rows = [(it.kind, it.split, _cut(it.name, 37), f"= {it.twin}" if it.twin else it.reason) for it in shown]
        lines += [_cut(line, WIDTH) for line in aligned([("kind", "split", "image", "what"), *rows])]
        more = len(audit.findings) - NAMED
        lines += [f"... and {more:,} more in audit.json"] if more > 0 else []
    return "\n".join(lines)


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return f"{spread.min:,}" if spread.min == spread.max else f"{spread.min:,} to {spread.max:,}"


def _cut(text: str, width: int) -> str:
    """Text that is too long without its middle, but for what ends it: a file's name, a label."""
    return text if len(text) <= width else f"{text[: width - 23]}...{text[-20:]}"
