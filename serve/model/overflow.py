"""Whether the 8-bit weights of a file can be computed with on this processor.

Without VNNI, x86 adds pairs of products of bytes up in 16 bits, where the largest do not fit: answers are then wrong,
and nothing says so. Weights of 7 bits are small enough. ARM has no such instruction.
"""

from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]

from serve.model.card import Card

PROBE = Path(__file__).with_name("largest_sums.onnx")
"""bytes uint8 (1, 64) -> sums int32 (1, 16), by weights (64, 16) that are all 127. tests/serve/model makes it anew."""


@cache
def overflows() -> bool:
    """Whether the largest sums of 8-bit products overflow here."""
    session = onnxruntime.InferenceSession(PROBE.read_bytes(), providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"bytes": np.full((1, 64), 255, np.uint8)})
    return bool((sums != 64 * 255 * 127).any())


def doubt(card: Card) -> str | None:
    """Why a file is not to be computed on this processor, behind its name; None where it may."""
    if card.weight_bits != 8 or not overflows():
        return None
    return (
        "has weights of 8 bits, whose sums overflow on this processor, which lacks VNNI. Quantise again with "
        "quantize.reduce_range: true, or take the float32 file"
    )
