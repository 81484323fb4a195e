"""The embedded default: two handwritten digits side by side, 100 classes "00" to "99". Needs no network and no file.

The digits are the 1,797 of scikit-learn's `load_digits`: 8x8 pixels, really written by people. They are dealt into
three pools, digit by digit, before any pair is made: no digit image stands in two splits, neither do two splits share
a pair. Pairs are drawn with random size, place and noise; image i of a split hangs on (seed, split, i) alone.

E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from pipeline.preparation.source import Source
from pipeline.settings.data import Data
from pipeline.settings.section import Section
from pipeline.system.errors import ParamsError

SPLITS = ("train", "val", "test")
# Share of each digit's images in each pool. Train needs variety more than the others do.
POOL_SHARES = (0.6, 0.15, 0.25)
NUM_CLASSES = 100
# Height and width of a digit on a canvas of 32: the 8x8 original about doubled.
SMALLEST, LARGEST, CANVAS = 14, 18, 32

Count = Annotated[int, Field(ge=NUM_CLASSES, le=10_000_000)]


class Config(Section):
    """How many pairs to draw, and how hard they are to tell apart."""

    train: Count = 6000
    """Images of the train split; classes are balanced to within one image."""
    val: Count = 1000
    """Images of the validation split, of digits that train does not have; data.val_fraction is not used."""
    test: Count = 2000
    """Images of the test split, of digits that neither of the others has."""
    max_shift_px: Annotated[int, Field(ge=0)] = 3
    """Each digit is moved from the middle of its half by up to this many stored pixels, in any direction."""
    noise_std: Annotated[float, Field(ge=0, le=255)] = 40.0
    """Standard deviation of the Gaussian noise on every pixel, on the scale of 0 to 255."""


@dataclass(frozen=True)
class Pairs:
    """One split of drawn pairs."""

    split: str
    pools: tuple[NDArray[np.int64], ...]
    """For each digit 0..9, the numbers of its images (in load_digits) that this split may use."""
    digits: NDArray[np.uint8]
    """(1797, 8, 8) ink of every digit image, [0, 255]."""
    labels: NDArray[np.int64]
    config: Config
    data: Data

    def __len__(self) -> int:
        return len(self.labels)

    def pair(self, index: int) -> tuple[int, int]:
        """Numbers, in load_digits, of the left and the right digit image of one record."""
        return self._draw(index)[0]

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels (px, px, 3) of one record, px as stored: white ink on black, the three channels alike."""
        pair, random = self._draw(index)
        px, shift = self.data.stored_px, self.config.max_shift_px
        canvas = np.zeros((px, px), dtype=np.uint8)
        for half, number in enumerate(pair):
            size = round(int(random.integers(SMALLEST, LARGEST + 1)) * px / CANVAS)
            digit = Image.fromarray(self.digits[number]).resize((size, size), Image.Resampling.BILINEAR)
            # Kept inside the canvas, so that shifting cuts nothing off; where two digits overlap, ink stays ink.
            down, right = random.integers(-shift, shift + 1, size=2)
            top = int(np.clip((px - size) // 2 + down, 0, px - size))
            left = int(np.clip(((1 + 2 * half) * px // 2 - size) // 2 + right, 0, px - size))
            spot = canvas[top : top + size, left : left + size]
            np.maximum(spot, np.asarray(digit), out=spot)
        noisy = canvas + random.normal(0, self.config.noise_std, size=canvas.shape)
        grey = np.rint(noisy).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)

    def path(self, index: int) -> None:
        """None: no pair is a file."""

    def name(self, index: int) -> str:
        """Split, number, and which digit images it shows."""
        left, right = self.pair(index)
        return f"{self.split} pair {index} (images {left} and {right} of load_digits)"

    def _draw(self, index: int) -> tuple[tuple[int, int], np.random.Generator]:
        """The pair of a record, and the generator that draws the rest of it."""
        random = np.random.default_rng([self.data.seed, SPLITS.index(self.split), index])
        first, second = (self.pools[digit] for digit in divmod(int(self.labels[index]), 10))
        return (int(random.choice(first)), int(random.choice(second))), random


def open_source(config: Config, data: Data) -> Source:
    """Deal the digits into pools and fix the labels; images are drawn as they are read.

    Raises ParamsError if digits may be shifted so far that left and right lose their meaning.
    """
    from sklearn.datasets import load_digits  # slow to import

    if 4 * config.max_shift_px >= data.stored_px:
        raise ParamsError(
            f"params.yaml: data.sources.digit_pairs.max_shift_px is {config.max_shift_px}; with images of "
            f"{data.stored_px} px it must stay below {data.stored_px / 4:g}, or the two digits change places."
        )
    bunch = load_digits()
    digits = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    pools = deal(bunch.target.astype(np.int64), data.seed)
    splits = {}
    for split in SPLITS:
        # 37 shares no factor with 100: every run of 100 records has each class once, neighbours are far apart.
        labels = np.arange(getattr(config, split), dtype=np.int64) * 37 % NUM_CLASSES
        splits[split] = Pairs(split, pools[split], digits, labels, config, data)
    return Source(tuple(f"{k:02d}" for k in range(NUM_CLASSES)), splits, "CC BY 4.0")


def fingerprint(config: Config, data: Data) -> None:
    """None: no file of the user's is read."""


def deal(targets: NDArray[np.int64], seed: int) -> dict[str, tuple[NDArray[np.int64], ...]]:
    """Image numbers by split and digit, from the digit that each image shows (N,). Every image is dealt once."""
    random = np.random.default_rng([seed, len(SPLITS)])
    pools: dict[str, list[NDArray[np.int64]]] = {split: [] for split in SPLITS}
    for digit in range(10):
        members = random.permutation(np.flatnonzero(targets == digit))
        cuts = np.rint(np.cumsum(POOL_SHARES)[:-1] * len(members)).astype(int)
        for split, pool in zip(SPLITS, np.split(members, cuts), strict=True):
            pools[split].append(np.sort(pool))
    return {split: tuple(by_digit) for split, by_digit in pools.items()}
