"""What is wrong with the images of a source, all of it, before anything trains: `audit.json`.

    missing, empty, unreadable, truncated   the image cannot be used: data.on_bad
    wrong_extension                         a file is of another format than its name says; its pixels are used
    duplicate                               the same pixels twice within a split
    leak                                    the same pixels in two splits: data.leaks; images of data.unlabelled that
                                            are in another split are always dropped
    conflict                                the same pixels under two labels, within a split or across
    tiny                                    the short side is below image_px, so that it is enlarged
    imbalance                               a class of train has less than a tenth of the images of the largest one

Pixels are the same where the decoded images are, at full size and bit for bit, whatever the format of their files; a
copy that was compressed anew is not found. Of images with the same pixels one is taken as the original, that of test
before that of val before that of train before one without a label, and in a split the one that comes first. Every other
one is a finding, and names the original (that of its split, if it is a duplicate) as its twin.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pipeline.data.unlabelled import UNLABELLED
from pipeline.preparation import decode
from pipeline.preparation.audit_twins import Place, same_pixels
from pipeline.preparation.divide import NAMED_AT_MOST, Part, class_counts, trained
from pipeline.preparation.reading import FLAWS, Flaw
from pipeline.preparation.source import Source
from pipeline.settings.data import Data

Kind = Literal[Flaw, "duplicate", "leak", "conflict", "tiny", "imbalance"]
KINDS: tuple[Kind, ...] = get_args(Kind)
UNUSABLE: tuple[Kind, ...] = get_args(decode.Kind)
IMBALANCE = 10
"""Times as many images as a class has that is named."""
TINY_NAMED = 20
"""So many of the smallest images are named; all are counted."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Spread(_Record):
    """Least, middle and greatest of some numbers."""

    min: int
    median: float
    max: int


class SplitAudit(_Record):
    """One prepared split."""

    images: int
    """Looked at."""
    kept: int
    """Written: without the bad and the dropped ones."""
    bad: int
    """Missing, empty, unreadable or truncated."""
    dropped: int
    """Left out because their pixels stand in another split."""
    duplicates: int
    class_images: Spread | None
    """Images of a class that are kept; None without labels."""
    width_px: Spread | None
    """Of the images that can be used, as they are in the source; None where there are none."""
    height_px: Spread | None


class Finding(_Record):
    """One thing that is wrong, with one image or (imbalance) one class."""

    kind: Kind
    split: str
    name: str
    label: str
    reason: str
    twin: str | None = None
    """The image with the same pixels, and its label."""
    thumbnail: str | None = None
    """Base64 of a PNG, its longest side at most 64 px; only some findings have one."""


class LeftOutAudit(_Record):
    """Files below data.path that were not opened, for one reason."""

    count: int
    why: str
    names: tuple[str, ...]
    """The first of them."""


class SourceSplits(_Record):
    """Same pixels in the splits as the source has them, before val is drawn from train."""

    leaks: int
    """Images that stand in another split too."""
    repeats: int
    """Images that stand a second time in their split."""


class Audit(_Record):
    """`audit.json`. Holds no time and no path: the same images give the same bytes."""

    source: str
    on_bad: str
    leaks: str
    train_includes_val: bool
    left_out: tuple[LeftOutAudit, ...]
    """All files below data.path stand here or were opened."""
    splits: dict[str, SplitAudit]
    source_splits: SourceSplits
    counts: dict[str, int]
    """Of each kind, also of those that were not found."""
    findings: tuple[Finding, ...]
    """Of one kind after the other, train, val, test and those without labels; of tiny ones the smallest alone."""

    def foremost(self, num: int) -> list[int]:
        """Numbers of some findings in their order: first those of images that cannot be used, then all kinds alike."""
        seen: dict[str, int] = {}
        ranks = []
        for number, finding in enumerate(self.findings):
            group = "unusable" if finding.kind in UNUSABLE else finding.kind
            seen[group] = seen.get(group, 0) + 1
            ranks.append((group != "unusable", seen[group], number))
        return sorted(number for _, _, number in sorted(ranks)[:num])

    @property
    def num_bad(self) -> int:
        """Images that cannot be used."""
        return sum(self.counts[kind] for kind in UNUSABLE)


@dataclass(frozen=True)
class Examined:
    """The audit, and what follows from it for each prepared split."""

    audit: Audit
    places: list[Place | None]
    """Of each finding; None where it is no image's."""
    usable: dict[str, NDArray[np.bool_]]
    """(N,) images that have pixels."""
    keep: dict[str, NDArray[np.bool_]]
    """(N,) those of them that are written."""


def examine(
    source: Source,
    parts: Mapping[str, Part],
    looks: Mapping[str, NDArray[np.void]],
    reasons: Mapping[Place, str],
    data: Data,
) -> Examined:
    """Judge what was seen of every image: `looks` (N,) of reading.LOOK, and the reason for each flaw.

    Findings have no thumbnails yet.
    """
    # Codes from 1 on stand for FLAWS, of which the last one leaves an image usable.
    usable = {name: (look["flaw"] == 0) | (look["flaw"] == len(FLAWS)) for name, look in looks.items()}
    twins = same_pixels(parts, {name: look["digest"] for name, look in looks.items()}, usable)
    keep = {name: usable[name].copy() for name in parts}
    for twin in twins.found:
        if twin.kind == "leak" and (data.leaks == "drop" or twin.place.split == UNLABELLED):
            keep[twin.place.split][twin.place.position] = False
    small = _enlarged(looks, usable, data.image_px)
    found: list[tuple[Finding, Place | None]] = [
        (_finding(FLAWS[looks[place.split]["flaw"][place.position] - 1], place, reason, source, parts), place)
        for place, reason in reasons.items()
    ]
    for kind, place, original in twins.found:
        name, label = _named(original, source, parts)
        named = f"{name} ({label})"
        found.append((_finding(kind, place, f"the pixels of {named}", source, parts, named), place))
    for place in small[:TINY_NAMED]:
        width, height = (looks[place.split][side][place.position] for side in ("width", "height"))
        reason = f"{width} x {height} px, enlarged to {data.image_px}"
        found.append((_finding("tiny", place, reason, source, parts), place))
    kept = {name: part.labels[keep[name]] for name, part in parts.items() if name != UNLABELLED}
    found += [(finding, None) for finding in _rare_classes(source, trained(kept, data)["train"])]
    # A stable sort: within a split the findings of a kind stay in their order.
    found.sort(key=lambda it: (KINDS.index(it[0].kind), list(parts).index(it[0].split)))
    counts: dict[str, int] = {kind: sum(finding.kind == kind for finding, _ in found) for kind in KINDS}
    audit = Audit(
        source=data.source,
        on_bad=data.on_bad,
        leaks=data.leaks,
        train_includes_val=data.train_includes_val,
        left_out=tuple(
            LeftOutAudit(count=len(group.names), why=group.why, names=group.names[:NAMED_AT_MOST])
            for group in source.left_out
        ),
        splits={
            name: SplitAudit(
                images=len(part.order),
                kept=int(keep[name].sum()),
                bad=int((~usable[name]).sum()),
                dropped=int((usable[name] & ~keep[name]).sum()),
                duplicates=sum(kind == "duplicate" and place.split == name for kind, place, _ in twins.found),
                class_images=(
                    None if name == UNLABELLED else _spread(class_counts(part.labels[keep[name]], len(source.labels)))
                ),
                width_px=_spread(looks[name]["width"][usable[name]]),
                height_px=_spread(looks[name]["height"][usable[name]]),
            )
            for name, part in parts.items()
        },
        source_splits=SourceSplits(leaks=twins.source_leaks, repeats=twins.source_repeats),
        counts=counts | {"tiny": len(small)},
        findings=tuple(finding for finding, _ in found),
    )
    return Examined(audit, [place for _, place in found], usable, keep)


def _finding(
    kind: Kind, place: Place, reason: str, source: Source, parts: Mapping[str, Part], twin: str | None = None
) -> Finding:
    name, label = _named(place, source, parts)
    return Finding(kind=kind, split=place.split, name=name, label=label, reason=reason, twin=twin)


def _named(place: Place, source: Source, parts: Mapping[str, Part]) -> tuple[str, str]:
    """What the source calls an image, and the name of its class."""
    part = parts[place.split]
    index = int(part.order[place.position])
    if place.split == UNLABELLED:
        return part.records.name(index), "no label"
    return part.records.name(index), source.labels[part.records.labels[index]]


def _enlarged(
    looks: Mapping[str, NDArray[np.void]], usable: Mapping[str, NDArray[np.bool_]], image_px: int
) -> list[Place]:
    """Images whose short side is below image_px, the shortest first."""
    short = {name: np.minimum(look["height"], look["width"]) for name, look in looks.items()}
    places = [
        Place(name, position)
        for name in looks
        for position in np.flatnonzero(usable[name] & (short[name] < image_px)).tolist()
    ]
    return sorted(places, key=lambda place: int(short[place.split][place.position]))


def _rare_classes(source: Source, labels: NDArray[np.int64]) -> list[Finding]:
    """Classes of train (labels (N,)) with less than a tenth of the images of the largest one."""
    counts = class_counts(labels, len(source.labels))
    largest = int(counts.argmax())
    return [
        Finding(
            kind="imbalance",
            split="train",
            name=f"class {source.labels[rare]}",
            label=source.labels[rare],
            reason=f"{counts[rare]} images; {source.labels[largest]} has {counts[largest]}",
        )
        for rare in np.flatnonzero(counts * IMBALANCE < counts[largest]).tolist()
    ]


def _spread(numbers: NDArray[np.integer]) -> Spread | None:
    """Of (N,) numbers; None of none."""
    if len(numbers) == 0:
        return None
    return Spread(min=int(numbers.min()), median=float(np.median(numbers)), max=int(numbers.max()))
