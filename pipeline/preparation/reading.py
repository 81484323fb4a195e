"""Every image of a source, read once, by several processes, in an order that does not hang on how many there are.

Processes, because images as small as CIFAR's keep Python's lock for most of their time: four threads are no faster than
one, two processes are twice as fast. They are forked, so that a source that is open is open in each of them; where
forking is not safe, on any other system than Linux, threads read.
"""

import hashlib
import os
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.preparation import decode
from pipeline.preparation.divide import Part
from pipeline.preparation.source import Records
from pipeline.system import interruption
from pipeline.system.errors import PupilError

Flaw = Literal[decode.Kind, "wrong_extension"]
FLAWS: tuple[Flaw, ...] = (*get_args(decode.Kind), "wrong_extension")
"""What can be wrong with one image alone; with the last one it can be used."""
LOOK = np.dtype([("digest", "u1", (16,)), ("height", "<u4"), ("width", "<u4"), ("flaw", "u1")])
"""What is kept of an image: a digest of its decoded pixels, its size, and 1 + its place in FLAWS, or 0."""
WORKERS = min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
_BLOCK_BYTES = 2**20
_LARGEST_BLOCK = 256


@dataclass(frozen=True)
class Block:
    """What was seen of B records that follow each other."""

    pixels: NDArray[np.uint8]
    """(U, px, px, 3) of those that can be used."""
    looks: NDArray[np.void]
    """(B,) of LOOK."""
    reasons: list[tuple[int, str]]
    """Of each flaw: place in the block, and what is wrong."""
    histogram: NDArray[np.int64]
    """(3, 256) pixels by channel and value. Integers: their sums are exact and hang on no order."""


@dataclass(frozen=True)
class Reader:
    """Reads records of these parts at a size."""

    parts: Mapping[str, Part]
    size_px: int

    def __call__(self, name: str, start: int, stop: int) -> Block:
        """The records at the places from `start` to `stop` of one part. Raises DataError of the source's own."""
        records = self.parts[name].records
        order = self.parts[name].order[start:stop].tolist()
        looks = np.zeros(len(order), LOOK)
        usable: list[NDArray[np.uint8]] = []
        reasons: list[tuple[int, str]] = []
        for place, index in enumerate(order):
            flaw: Flaw | None = None
            try:
                pixels = records.read(index)
            except decode.BadImageError as error:
                flaw, reason = error.kind, error.reason
            else:
                usable.append(decode.square(pixels, self.size_px))
                looks[place] = (_digest(pixels), *pixels.shape[:2], 0)
                reason = _misnamed(records, index)
                flaw = "wrong_extension" if reason else None
            if flaw is not None:
                looks[place]["flaw"] = 1 + FLAWS.index(flaw)
                reasons.append((place, reason))
        stacked = np.stack(usable) if usable else np.empty((0, self.size_px, self.size_px, 3), np.uint8)
        return Block(stacked, looks, reasons, histogram(stacked))

    def blocks(self, first: int, workers: int) -> Iterator[tuple[str, Block]]:
        """Every part's name with its next block, from place `first` on, counted over all parts; some are read ahead.

        Raises PupilError where a process was killed.
        """
        block = max(1, min(_LARGEST_BLOCK, _BLOCK_BYTES // (3 * self.size_px**2)))
        tasks = list(self._tasks(first, block))
        # A few blocks are read before more processes have started.
        with _readers(self, max(1, min(workers, len(tasks) // 2))) as (submit, ahead):
            try:
                for (name, _, _), done in zip(tasks, _in_order(submit, tasks, ahead), strict=True):
                    yield name, done
            except BrokenProcessPool as error:
                raise PupilError(
                    "a process that reads images was killed, most likely because memory ran out: an image takes 8 "
                    f"bytes for each pixel of its full size, 16 if it is transparent, and {workers} are read at once. "
                    "Make the largest ones smaller, free memory, or read fewer at once (`taskset -c 0,1 make repro` "
                    "reads two); then run again."
                ) from error

    def _tasks(self, first: int, block: int) -> Iterator[tuple[str, int, int]]:
        for name, part in self.parts.items():
            num = len(part.order)
            for start in range(min(first, num), num, block):
                yield name, start, min(start + block, num)
            first = max(0, first - num)


def histogram(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(3, 256) of pixels (N, px, px, 3)."""
    if len(pixels) == 0:
        return np.zeros((3, 256), np.int64)
    # Pillow counts bytes as they are; numpy would make eight bytes of each first.
    rows = Image.fromarray(pixels.reshape(-1, *pixels.shape[2:]))
    return np.array(rows.histogram(), np.int64).reshape(3, 256)


def _digest(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(16,) of the image before it is made smaller: two photographs may shrink to the same few pixels."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return np.frombuffer(digest.digest()[:16], np.uint8)


def _misnamed(records: Records, index: int) -> str:
    path = records.path(index)
    return (decode.wrong_extension(path) or "") if path else ""


def _in_order(
    submit: Callable[[str, int, int], "Future[Block]"], tasks: Iterable[tuple[str, int, int]], ahead: int
) -> Iterator[Block]:
    waiting: deque[Future[Block]] = deque()
    for task in tasks:
        waiting.append(submit(*task))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def _readers(reader: Reader, workers: int) -> Iterator[tuple[Callable[[str, int, int], "Future[Block]"], int]]:
    """How to have a block read, and how many at a time keep all busy."""
    pool: ProcessPoolExecutor | ThreadPoolExecutor = ThreadPoolExecutor(workers)
    task: Callable[[str, int, int], Block] = reader
    if workers > 1 and sys.platform == "linux":
        try:
            pool = ProcessPoolExecutor(workers, get_context("fork"), _begin, (reader, os.getpid()))
        except OSError as error:
            print(
                f"note: no processes can be started to read images, so threads do, which is slower: {error.strerror}. "
                "Processes need a few bytes of /dev/shm; make room there, and let it be written to.",
                file=sys.stderr,
            )
        else:
            task = _read
            with warnings.catch_warnings():
                # Newer Pythons warn where threads run. Those of the libraries that opened the source wait for work,
                # and a child calls none of what they may hold.
                warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
                # Until it has its own handlers, a reader would only note that it is to end, and nobody ends it again.
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
                try:
                    pool.submit(os.getpid).result()
                finally:
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    try:
        yield lambda name, start, stop: pool.submit(task, name, start, stop), 2 * workers
    finally:
        pool.shutdown(cancel_futures=True)


_reader: Reader
"""Of this process, where it is one of those that `_readers` starts."""


def _begin(reader: Reader, parent: int) -> None:
    global _reader
    _reader = reader
    # Ctrl-C and a closed terminal reach the whole group; the parent decides what they mean. Nobody else would end the
    # children of a parent that was killed.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    interruption.follow(parent, signal.SIGKILL)


def _read(name: str, start: int, stop: int) -> Block:
    return _reader(name, start, stop)
