"""Arguments that several commands take, and what they may be."""

import argparse
import math
from pathlib import Path


def add_models(parser: argparse.ArgumentParser) -> None:
    """MODEL... and --threads, as `models` and `threads`."""
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="an exported .onnx file")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads of one call (default 1)")


def positive(text: str) -> int:
    """A whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def above_zero(text: str) -> float:
    """A finite number above 0."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return number


def port(text: str) -> int:
    """A TCP port, or 0 for any that is free."""
    number = int(text)
    if not 0 <= number < 2**16:
        raise argparse.ArgumentTypeError(f"must be in 0..65535, not {number}")
    return number
