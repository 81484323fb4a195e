"""Pixels for a GPU that cannot hold them all: a thread gathers the next batch while the GPU computes on this one."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Read = Callable[[NDArray[np.int64]], NDArray[np.uint8]]
"""Positions (B,) -> pixels (B, H, W, 3)."""


def in_turn(read: Read, parts: Sequence[Tensor], device: torch.device) -> Iterator[Tensor]:
    """The pixels at each of `parts`, int64 positions (B,) on the host, on the device and in this order.

    Raises what `read` raises, in its turn.
    """
    buffers = cycle([_Buffer(device), _Buffer(device)])
    filled: deque[Future[_Buffer]] = deque()
    with ThreadPoolExecutor(1, "gathering") as thread:
        for part in parts:
            filled.append(thread.submit(next(buffers).fill, read, part))
            if len(filled) > 1:
                yield filled.popleft().result().on_device()
        while filled:
            yield filled.popleft().result().on_device()


class _Buffer:
    """Pixels of one part. From pinned memory a GPU copies by itself, while the host goes on."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copied = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._pinned: Tensor | None = None
        self._pixels = torch.empty(0)

    def fill(self, read: Read, positions: Tensor) -> Self:
        """Gather the pixels at `positions`, once those of an earlier part have been copied."""
        self._pixels = torch.from_numpy(read(positions.numpy()))
        if self._copied is not None:
            self._copied.synchronize()
            if self._pinned is None or len(self._pinned) < len(positions):
                self._pinned = torch.empty_like(self._pixels, pin_memory=True)
            self._pixels = self._pinned[: len(positions)].copy_(self._pixels)
        return self

    def on_device(self) -> Tensor:
        """The pixels; the host does not wait for their copy."""
        pixels = self._pixels.to(self._device, non_blocking=True)
        if self._copied is not None:
            self._copied.record()
        return pixels
