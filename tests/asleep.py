"""Functions of a module, for processes of their own to call."""

import time
from pathlib import Path

import numpy as np

from serve.model.classifier import Pixels
from serve.timing.candidates import Call


def nap() -> None:
    """Longer than any test."""
    time.sleep(600)


def open_slow(path: Path, threads: int, device: str) -> Call:
    """Answers after 0.3 ms for each image, or after 3 ms for a single image whose first byte is 255."""

    def call(pixels: Pixels) -> object:
        time.sleep(0.003 if pixels[0, 0, 0, 0] == 255 and len(pixels) == 1 else 0.0003 * len(pixels))
        return np.zeros((len(pixels), 2), dtype=np.float32)

    return call


def open_broken(path: Path, threads: int, device: str) -> Call:
    """Answers a few times, then fails as a model may."""
    left = [60]

    def call(pixels: Pixels) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("the model broke")
        return np.zeros((len(pixels), 2), dtype=np.float32)

    return call
