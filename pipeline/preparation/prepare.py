"""Read every image of a source once, audit them, and write the splits that all later stages map.

    out/train/images.npy  uint8 (N, px, px, 3)     out/train/labels.npy  int64 (N,)     the same for val and test
    out/card.json         the DataCard
    out/unlabelled/       images.npy of data.unlabelled, where that is given, and a card.json of its own
    out/audit.json        the Audit; where it refuses the images, it stands alone in out.audit.json

The same source, settings and seed give the same bytes, whatever the number of processes and interruptions.
"""

import hashlib
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data.arrays import write_labels
from pipeline.data.card import DataCard
from pipeline.data.unlabelled import UNLABELLED, UnlabelledCard
from pipeline.preparation import audit_table, unlabelled
from pipeline.preparation.audit import UNUSABLE, Examined, examine
from pipeline.preparation.audit_thumbnails import with_thumbnails
from pipeline.preparation.divide import Part, check, class_counts, divide, listed, trained
from pipeline.preparation.one_pass import OnePass
from pipeline.preparation.reading import Reader, histogram
from pipeline.preparation.source import Source
from pipeline.settings import params
from pipeline.settings.data import Data, Normalization
from pipeline.system import files, registry
from pipeline.system.errors import DataError
from pipeline.system.run_key import run_key
from pipeline.system.scratch import replacing_folder

_NAMED = 5


def prepare(
    data: Data, out: Path, progress: bool = True, resume: Path | None = None, fingerprint: str = ""
) -> DataCard:
    """Open the source that `data` names and write its splits, their audit and their card into the folder `out`.

    Args:
        data: which source, and how its images are stored.
        out: appears, or is replaced, only when everything is written; on any failure what stood there stays.
        progress: report to stderr, and print the audit.
        resume: a folder where an interrupted pass over the images is kept, to go on from; None: it is not kept.
        fingerprint: of what the source reads; a pass over other files is not gone on with.

    Raises DataError where the source is missing, broken or unfit, or the audit refuses it; PupilError where the disk
    refuses; StoppedError where somebody asked to stop.
    """
    module = registry.find("pipeline.sources", data.source, "data.source")
    source = unlabelled.joined(module.open_source(params.source_config(data), data), data)
    for group in source.left_out:
        print(
            f"note: {len(group.names):,} {group.why}, and are left out: {listed(list(group.names))}.", file=sys.stderr
        )
    if data.train_includes_val and "val" in source.splits:
        print(
            "note: this data set's own validation split is used for training too (data.train_includes_val), so that "
            "no figure on it is a figure on new images.",
            file=sys.stderr,
        )
    return write(source, data, out, progress, resume, fingerprint)


def write(
    source: Source,
    data: Data,
    out: Path,
    progress: bool = True,
    resume: Path | None = None,
    fingerprint: str = "",
) -> DataCard:
    """`prepare` for a source that is already open."""
    check(trained({name: records.labels for name, records in source.splits.items()}, data), source.labels)
    if data.on_bad == "fail":
        _check_left_out(source)
    parts = divide(source, data)
    refused = out.with_name(f"{out.name}.audit.json")
    with replacing_folder(out) as scratch:
        reader, folder = Reader(parts, data.stored_px), resume or scratch / "pass"
        with closing(OnePass(reader, folder, _key(source, data, fingerprint), resume or out)) as images:
            images.run(progress)
            examined = examine(source, parts, images.looks(), images.reasons(), data)
            audit = with_thumbnails(examined, images)
            if progress:
                print(audit_table.text(audit), flush=True)
            problem = _problem(source, parts, examined, data)
            if problem:
                files.write_json(refused, audit.model_dump(mode="json"))
                raise DataError(f"{problem} The whole audit is in {refused}.")
            card = _write_splits(source, parts, examined, images, data, scratch)
            files.write_json(scratch / "audit.json", audit.model_dump(mode="json"))
            _write_unlabelled(examined, images, scratch)
            (scratch / "card.json").write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
            if resume is None:  # then it lies in the folder that is made
                images.clear()
    if resume is not None:
        images.clear()
    refused.unlink(missing_ok=True)
    return card


def _check_left_out(source: Source) -> None:
    """Raise DataError where half of what looks meant is not read."""
    opened = sum(map(len, source.splits.values()))
    groups = [group for group in source.left_out if group.meant]
    lost = sum(len(group.names) for group in groups)
    if lost >= opened:
        what = "; ".join(f"{len(it.names):,} {it.why}: {listed(list(it.names), at_most=_NAMED)}" for it in groups)
        raise DataError(
            f"Of {opened + lost:,} files only {opened:,} would be read: {what}. Save them in a format that is read ("
            "docs/data-sources.md), move them where they belong or away, or set data.on_bad to skip to leave them out."
        )


def _key(source: Source, data: Data, fingerprint: str) -> str:
    """Of all that decides what the pass reads, and in which order."""
    labels = hashlib.sha256("\n".join(source.labels).encode())
    for records in source.splits.values():
        labels.update(records.labels.tobytes())
    facts = {
        # What is made of the images is decided after the pass: after a refusal it need not be made again.
        "data": data.model_dump(mode="json", exclude={"on_bad", "leaks", "normalization", "train_includes_val"}),
        "fingerprint": fingerprint,
        "labels": labels.hexdigest(),
    }
    return run_key(facts, "numpy", "pillow")


def _problem(source: Source, parts: Mapping[str, Part], examined: Examined, data: Data) -> str | None:
    """Why the images cannot be used; None where they can."""
    audit = examined.audit
    if audit.num_bad and data.on_bad == "fail":
        total = sum(split.images for split in audit.splits.values())
        kinds = ", ".join(f"{audit.counts[kind]} {kind}" for kind in UNUSABLE if audit.counts[kind])
        first = [f"{it.name}: {it.reason}" for it in audit.findings if it.kind in UNUSABLE]
        return (
            f"{audit.num_bad} of {total} images cannot be read ({kinds}): {listed(first, '; ', _NAMED)}. Repair or "
            "remove them and run again, or set data.on_bad to skip to leave them out."
        )
    try:
        kept = {name: part.labels[examined.keep[name]] for name, part in parts.items()}
        check(trained(kept, data), source.labels)
    except DataError as error:
        bad, dropped = (sum(getattr(it, what) for it in audit.splits.values()) for what in ("bad", "dropped"))
        return f"Without {bad} images that cannot be read and {dropped} that leak into another split: {error}"
    if UNLABELLED in audit.splits and not audit.splits[UNLABELLED].kept:
        it = audit.splits[UNLABELLED]
        return (
            f"No image of data.unlabelled is left: of {it.images}, {it.bad} cannot be read and {it.dropped} are copies "
            "of images of train, val or test. Give a folder of other images, or set data.unlabelled to null."
        )
    return None


def _write_splits(
    source: Source, parts: Mapping[str, Part], examined: Examined, images: OnePass, data: Data, folder: Path
) -> DataCard:
    counts, usable, keep = images.histogram, examined.usable, examined.keep
    read = images.rows("train", usable["train"])
    for position in np.flatnonzero(usable["train"] & ~keep["train"]):
        counts = counts - histogram(read(np.array([position])))
    labels = trained({name: part.labels[keep[name]] for name, part in parts.items() if name != UNLABELLED}, data)
    if data.train_includes_val:
        read = images.rows("val", usable["val"])
        for position in np.flatnonzero(keep["val"]):
            counts = counts + histogram(read(np.array([position])))
    for name in labels:
        target = folder / name / "images.npy"
        target.parent.mkdir()
        write_labels(folder / name / "labels.npy", labels[name])
        images.hand_over(name, usable[name], keep[name], target)
        if name == "train" and data.train_includes_val:
            images.append("val", usable["val"], keep["val"], target, len(labels["train"]))
    return DataCard(
        source=data.source,
        labels=source.labels,
        image_px=data.image_px,
        storage_px=data.stored_px,
        counts={name: len(numbers) for name, numbers in labels.items()},
        train_includes_val=data.train_includes_val,
        class_counts={
            name: tuple(class_counts(numbers, len(source.labels)).tolist()) for name, numbers in labels.items()
        },
        normalization=data.normalization or _normalization(counts),
        sha256={
            f"{name}/{array}.npy": files.sha256(folder / name / f"{array}.npy")
            for name in labels
            for array in ("images", "labels")
        },
        licence=source.licence,
    )


def _write_unlabelled(examined: Examined, images: OnePass, folder: Path) -> None:
    """Leave the images without labels, if there are any, and their card."""
    target, card = folder / UNLABELLED / "images.npy", UnlabelledCard(count=0, sha256=None)
    target.parent.mkdir()
    if UNLABELLED in examined.keep:
        keep = examined.keep[UNLABELLED]
        images.hand_over(UNLABELLED, examined.usable[UNLABELLED], keep, target)
        card = UnlabelledCard(count=int(keep.sum()), sha256=files.sha256(target))
    (target.parent / "card.json").write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _normalization(histogram: NDArray[np.int64]) -> Normalization:
    """Mean and std of each channel, pixels scaled to [0, 1], from integer counts (3, 256)."""
    means, stds = [], []
    for channel, counts in zip(("red", "green", "blue"), histogram.tolist(), strict=True):
        num = sum(counts)
        first = sum(value * count for value, count in enumerate(counts))
        second = sum(value * value * count for value, count in enumerate(counts))
        # Python integers: exact up to here, however many images there are.
        variance = (num * second - first * first) / (num * num)
        if variance == 0:
            raise DataError(
                f"Every {channel} value of every train image is {first // num}; with nothing to tell images apart, "
                "nothing can be learnt. Are these the right images?"
            )
        means.append(first / num / 255)
        stds.append(variance**0.5 / 255)
    return Normalization(mean=(means[0], means[1], means[2]), std=(stds[0], stds[1], stds[2]))
