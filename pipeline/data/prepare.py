"""Read every image of a source once and write the splits that all later stages map.

    out/train/images.npy  uint8 (N, px, px, 3)     out/train/labels.npy  int64 (N,)     the same for val and test
    out/card.json         the DataCard

The same source, settings and seed give the same bytes.
"""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline import files, params, registry
from pipeline.data import decode
from pipeline.data.arrays import ImagesWriter, write_labels
from pipeline.data.card import DataCard
from pipeline.data.divide import Part, check, class_counts, divide, listed
from pipeline.data.scratch import replacing_folder
from pipeline.data.source import Records, Source
from pipeline.errors import DataError

# Images that a thread reads at a time. Four threads make large photographs three times as fast; on images as small as
# CIFAR's they mostly wait for the interpreter's lock, a third slower than one thread, and twice as slow one by one.
BLOCK = 32
WORKERS = min(8, os.cpu_count() or 1)


def prepare(data: params.Data, out: Path, progress: bool = True) -> DataCard:
    """Open the source that `data` names and write its train, val and test splits and their card into the folder `out`.

    `out` appears, or is replaced, only when everything is written; on any failure what stood there stays. `progress`
    reports to stderr. Raises DataError where the source is missing, broken or unfit, PupilError where the disk refuses.
    """
    module = registry.find("pipeline.data.sources", data.source, "data.source")
    source = module.open_source(params.source_config(data), data)
    for note in source.notes:
        print(f"note: {note}", file=sys.stderr)
    return write(source, data, out, progress)


def write(source: Source, data: params.Data, out: Path, progress: bool = True) -> DataCard:
    """`prepare` for a source that is already open."""
    check(source)
    parts = divide(source, data)
    unreadable: list[str] = []
    # Pixels of train by channel and value: sums of integers, so that mean and std are exact and hang on no order.
    histogram = np.zeros((3, 256), dtype=np.int64)
    with replacing_folder(out) as scratch:
        total = sum(len(part.order) for part in parts.values())
        with _bar(total, progress) as bar:
            for name, part in parts.items():
                (scratch / name).mkdir()
                write_labels(scratch / name / "labels.npy", part.labels)
                with ImagesWriter(scratch / name / "images.npy", len(part.order), data.stored_px) as writer:
                    for pixels in _read(part, data.stored_px):
                        bar.update()
                        if isinstance(pixels, DataError):
                            unreadable.append(str(pixels))
                            continue
                        writer.add(pixels)
                        if name == "train":
                            histogram += [np.bincount(pixels[..., c].ravel(), minlength=256) for c in range(3)]
                    if not unreadable:
                        writer.finish()
        if unreadable:
            raise DataError(
                f"{len(unreadable)} of {total} images cannot be read: {listed(unreadable, '; ')}. "
                "Mend or remove them and run again."
            )
        card = DataCard(
            source=data.source,
            labels=source.labels,
            image_px=data.image_px,
            storage_px=data.stored_px,
            counts={name: len(part.order) for name, part in parts.items()},
            class_counts={name: tuple(class_counts(part.labels, source).tolist()) for name, part in parts.items()},
            normalization=data.normalization or _normalization(histogram),
            sha256={
                f"{name}/{array}.npy": files.sha256(scratch / name / f"{array}.npy")
                for name in parts
                for array in ("images", "labels")
            },
            licence=source.licence,
        )
        (scratch / "card.json").write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return card


def _read(part: Part, size_px: int) -> Iterator[NDArray[np.uint8] | DataError]:
    """Every image of a part in its order, at its final size, or why it cannot be read. Holds WORKERS blocks at once."""

    def read(block: NDArray[np.int64]) -> list[NDArray[np.uint8] | DataError]:
        return [_read_one(part.records, int(index), size_px) for index in block]

    step = WORKERS * BLOCK
    with ThreadPoolExecutor(WORKERS) as pool:
        for start in range(0, len(part.order), step):
            # A step at a time: map() over everything would keep every image that the disk has not taken yet.
            step_order = part.order[start : start + step]
            for block in pool.map(read, (step_order[at : at + BLOCK] for at in range(0, len(step_order), BLOCK))):
                yield from block


def _read_one(records: Records, index: int, size_px: int) -> NDArray[np.uint8] | DataError:
    try:
        return decode.square(records.read(index), size_px)
    except DataError as error:
        return error


def _normalization(histogram: NDArray[np.int64]) -> params.Normalization:
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
    return params.Normalization(mean=(means[0], means[1], means[2]), std=(stds[0], stds[1], stds[2]))


def _bar(total: int, progress: bool) -> tqdm:
    """Progress with time left on stderr: live on a terminal, two lines a minute in a log, none there if it is quick."""
    seconds = 0.1 if sys.stderr.isatty() else 30
    bar: tqdm = tqdm(
        total=total,
        desc="prepare",
        unit=" images",
        disable=not progress,
        mininterval=seconds,
        maxinterval=max(seconds, 10),
        delay=0 if sys.stderr.isatty() else seconds,
    )
    return bar
