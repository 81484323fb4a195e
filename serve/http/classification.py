"""The classification extension of the protocol: the best classes by value, index and label, instead of a tensor.

Each class is one string, "VALUE:INDEX:LABEL". In binary data, each string has its length before it, as 4 bytes.
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/protocol/extension_classification.html
"""

from collections.abc import Sequence

import numpy as np

from serve.model.classifier import Floats

MAX_TEXTS = 65_536
"""Of one answer: half a microsecond each, in which the server answers nobody else, is 35 ms."""


def texts(values: Floats, labels: Sequence[str], num_best: int) -> list[str]:
    """(n, K) finite values -> n * min(num_best, K) strings, row after row, the highest value first."""
    best = np.argsort(-values, axis=1, kind="stable")[:, :num_best]
    return [f"{row[k]:.9g}:{k}:{labels[k]}" for row, order in zip(values, best.tolist(), strict=True) for k in order]


def packed(strings: Sequence[str]) -> bytes:
    """A tensor of datatype BYTES as binary data."""
    pieces = []
    for string in strings:
        text = string.encode("utf-8")
        pieces += [len(text).to_bytes(4, "little"), text]
    return b"".join(pieces)
