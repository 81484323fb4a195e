"""logits.npy: what a network says of every image of the test split, in its order, float32 (N, K)."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data.arrays import header
from pipeline.system.errors import DataError
from pipeline.system.files import replacing


def write(path: Path, logits: NDArray[np.float32]) -> None:
    """Write them, whole or not at all."""
    with replacing(path) as scratch, scratch.open("wb") as file:
        file.write(header("<f4", logits.shape))
        # Not numpy's own writing: it loses why the disk refused.
        file.write(logits.astype("<f4").tobytes())


def read(path: Path, images: int, classes: int, stage: str) -> NDArray[np.float32]:
    """(images, classes), of a test split of so many images and classes.

    Raises DataError where the file is missing, torn, of another split or of other classes; `stage` is what writes it.
    """
    remake = f"Stage {stage} writes it: run `dvc repro --force {stage}`."
    try:
        logits: NDArray[np.float32] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is missing or is not a complete .npy file: {error}. {remake}") from error
    if logits.shape != (images, classes) or logits.dtype != np.float32:
        raise DataError(
            f"{path} does not belong to this test split: expected float32 {(images, classes)}, one row per image and "
            f"one column per class, but got {logits.dtype} {logits.shape}. {remake}"
        )
    return logits
