"""Small image files for sources to find."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def noise(number: int) -> NDArray[np.uint8]:
    """Pixels (6, 5, 3), other ones for each number."""
    return np.random.default_rng(number).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def write(folder: Path, *names: str) -> Path:
    """Put a file of noise under each name below a folder, no two alike; returns the folder."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(number)).save(folder / name, "PNG")
    return folder
