"""Arguments that several commands take, and readers of numbers that keep them where a command can bear them."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Number = TypeVar("Number", int, float)
DAY_S = 86_400.0
SEED = 2**32 - 1
"""The largest seed."""


def add_models(parser: argparse.ArgumentParser) -> None:
    """MODEL... and --threads, as `models` and `threads`."""
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="an exported .onnx file")
    add_threads(parser)


def add_threads(parser: argparse.ArgumentParser) -> None:
    """--threads, as `threads`."""
    parser.add_argument("--threads", type=whole(1, 1024), default=1, help="CPU threads of one call (default 1)")


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device, as `device`, for commands that compute."""
    parser.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="where to compute: auto takes an NVIDIA GPU if there is one that can be used, cuda insists (default auto)",
    )


def whole(least: int, most: int) -> Callable[[str], int]:
    """A reader of whole numbers in least..most."""
    return _within(int, least, most)


def number(least: float, most: float) -> Callable[[str], float]:
    """A reader of numbers in least..most, which infinity and NaN are not."""
    return _within(float, least, most)


def _within(kind: type[Number], least: Number, most: Number) -> Callable[[str], Number]:
    def read(text: str) -> Number:
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be in {least}..{most}, not {text:.20}")
        return value

    read.__name__ = "number"  # argparse says it of a text that is none
    return read
