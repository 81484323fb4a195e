"""The one pass over the images of a source: it can be interrupted at any time and goes on where it stopped.

NAME.images     (N, px, px, 3) uint8 as .npy, rows of the images that can be used, in the order of the split
looks, reasons  what was seen of every image, all splits behind each other; a JSON line for each flaw
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.data.arrays import ImagesWriter, RowReader, header
from pipeline.preparation.audit_twins import Place
from pipeline.preparation.reading import LOOK, WORKERS, Block, Reader
from pipeline.system import interruption
from pipeline.system.errors import PupilError, StoppedError
from pipeline.system.files import cannot_write
from pipeline.system.growing import Growing

_LOOKS, _REASONS = "looks", "reasons"
_SETTLE_S = 5.0
"""At most about so much work is lost by a kill."""
_COPIED_AT_A_TIME = 64


class OnePass:
    """What one pass over all parts leaves in a folder.

    Args:
        reader: of the parts, at the size that is stored.
        folder: of the files; an earlier pass with the same key is gone on with.
        key: of all that decides what is read; see `run_key`.
        place: to name where the disk refuses; None: the folder.
    """

    def __init__(self, reader: Reader, folder: Path, key: str, place: Path | None = None) -> None:
        self._reader, self._folder, self._place = reader, folder, place or folder
        self._ends = np.cumsum([len(part.order) for part in reader.parts.values()]).tolist()
        with _blamed(self._place):
            self._growing = Growing(folder, key)
        if self._growing.facts:
            done = self._growing.facts["done"]
            print(f"resuming after {done:,} of {self._ends[-1]:,} images, from {folder}", file=sys.stderr)
        else:
            beginnings = {f"{name}.images": self._header(len(part.order)) for name, part in reader.parts.items()}
            facts = {"done": 0, "histogram": np.zeros((3, 256), int).tolist()}
            with _blamed(self._place):
                try:
                    self._growing.start({**beginnings, _LOOKS: b"", _REASONS: b""}, facts)
                except OSError:
                    self.close()
                    raise
        self.histogram = np.array(self._growing.facts["histogram"], np.int64)
        """(3, 256) pixels of train by channel and value."""

    def run(self, progress: bool) -> None:
        """Read what is left. Raises StoppedError where somebody asked to stop, after putting everything away."""
        done, total = self._growing.facts["done"], self._ends[-1]
        settled = time.monotonic()
        with interruption.listen() as stop, _bar(done, total, progress) as bar:
            for name, block in _until_stopped(self._reader.blocks(done, WORKERS), stop):
                with _blamed(self._place):
                    self._growing.append(f"{name}.images", block.pixels.data)
                    self._growing.append(_LOOKS, block.looks.tobytes())
                    for place, reason in block.reasons:
                        self._growing.append(_REASONS, (json.dumps([done + place, reason]) + "\n").encode())
                if name == "train":
                    self.histogram += block.histogram
                done += len(block.looks)
                bar.update(len(block.looks))
                if time.monotonic() - settled > _SETTLE_S:
                    self._settle(done)
                    settled = time.monotonic()
        self._settle(done)
        if stop.received is not None:
            raise StoppedError(
                f"stopped by {stop.received.name} after {done:,} of {total:,} images. With --resume, the same command "
                "goes on from there.",
                stop.received,
            )

    def looks(self) -> dict[str, NDArray[np.void]]:
        """(N,) of LOOK by split."""
        whole = np.fromfile(self._folder / _LOOKS, LOOK)
        return dict(zip(self._reader.parts, np.split(whole, self._ends[:-1]), strict=True))

    def reasons(self) -> dict[Place, str]:
        """What is wrong with each image that has a flaw."""
        names, starts = list(self._reader.parts), [0, *self._ends]
        reasons = {}
        for line in (self._folder / _REASONS).read_text(encoding="utf-8").splitlines():
            number, reason = json.loads(line)
            split = int(np.searchsorted(self._ends, number, side="right"))
            reasons[Place(names[split], number - starts[split])] = reason
        return reasons

    def rows(self, name: str, usable: NDArray[np.bool_]) -> Callable[[NDArray[np.int64]], NDArray[np.uint8]]:
        """Reads pixels (B, px, px, 3) by positions (B,) in the split; `usable` (N,) has at least one image."""
        row_of = np.cumsum(usable) - 1
        shape = (int(usable.sum()), self._reader.size_px, self._reader.size_px, 3)
        path = self._folder / f"{name}.images"
        mapped: NDArray[np.uint8] = np.memmap(path, np.uint8, "r", len(self._header(0)), shape)
        read = RowReader(mapped)
        return lambda positions: read(row_of[positions])

    def hand_over(self, name: str, usable: NDArray[np.bool_], keep: NDArray[np.bool_], target: Path) -> None:
        """Leave the images of a split that are to be kept, some of the usable ones, in the file `target`."""
        kept = np.flatnonzero(keep)
        if (usable == keep).all():
            self._growing.hand_over(f"{name}.images", target)
            with target.open("r+b") as file:
                # As long as the one that announced all images.
                file.write(self._header(len(kept)))
            return
        read = self.rows(name, usable)
        with ImagesWriter(target, len(kept), self._reader.size_px) as writer:
            for start in range(0, len(kept), _COPIED_AT_A_TIME):
                for pixels in read(kept[start : start + _COPIED_AT_A_TIME]):
                    writer.add(pixels)
            writer.finish()

    def append(self, name: str, usable: NDArray[np.bool_], keep: NDArray[np.bool_], target: Path, total: int) -> None:
        """Copy the images of a split that are to be kept behind those in `target`, which then holds `total`."""
        kept, read = np.flatnonzero(keep), self.rows(name, usable)
        with target.open("r+b") as file:
            file.write(self._header(total))
            file.seek(0, os.SEEK_END)
            for start in range(0, len(kept), _COPIED_AT_A_TIME):
                file.write(read(kept[start : start + _COPIED_AT_A_TIME]).tobytes())

    def close(self) -> None:
        """Close all files, and keep them."""
        self._growing.close()

    def clear(self) -> None:
        """Forget the pass; nothing stays but what was handed over."""
        self._growing.clear()

    def _settle(self, done: int) -> None:
        with _blamed(self._place):
            self._growing.settle({"done": done, "histogram": self.histogram.tolist()})

    def _header(self, num: int) -> bytes:
        return header("|u1", (num, self._reader.size_px, self._reader.size_px, 3))


def _until_stopped(blocks: Iterator[tuple[str, Block]], stop: interruption.StopRequest) -> Iterator[tuple[str, Block]]:
    """The blocks up to the one under way when somebody asks to stop: who asks a whole group kills the readers first."""
    try:
        for each in blocks:
            yield each
            if stop.received is not None:
                return
    except PupilError:
        if stop.received is None:
            raise


@contextmanager
def _blamed(folder: Path) -> Iterator[None]:
    """Raise PupilError, naming that folder, where the disk refuses: a pass may lie on another one than what is made."""
    try:
        yield
    except OSError as error:
        raise cannot_write(str(folder), folder, error) from error


def _bar(done: int, total: int, progress: bool) -> tqdm:
    """Progress with time left on stderr: live on a terminal, two lines a minute in a log, none there if it is quick."""
    seconds = 0.1 if sys.stderr.isatty() else 30
    bar: tqdm = tqdm(
        initial=done,
        total=total,
        desc="prepare",
        unit=" images",
        disable=not progress,
        mininterval=seconds,
        maxinterval=max(seconds, 10),
        delay=0 if sys.stderr.isatty() else seconds,
    )
    return bar
