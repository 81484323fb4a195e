"""Photographs of mixed sizes in three classes, in the layouts that people have them in.

Two classes are random pieces of the photographs that scikit-learn ships (a temple, a flower), the third is drawn
(bubbles). The same seed gives the same files. None is another's exact copy.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images  # type: ignore[import-untyped]  # ships no types

CLASSES = ("temple", "flower", "bubbles")
SHORT_PX = (160, 400)
"""Of the short sides, by default; the long ones are up to half as much longer."""
LARGEST_PX = (427, 640)
"""Height and width of what the pieces are cut from."""


def photographs(
    counts: Mapping[str, int], seed: int = 0, short_px: tuple[int, int] = SHORT_PX
) -> dict[str, dict[str, list[Image.Image]]]:
    """By split and class, as many images for each class as `counts` names for the split.

    short_px: least and greatest short side, at most 427.
    """
    assert short_px[1] <= min(LARGEST_PX), short_px
    rng = np.random.default_rng(seed)
    whole = load_sample_images().images
    return {
        split: {
            label: [_one(rng, whole, number, short_px) for _ in range(count)] for number, label in enumerate(CLASSES)
        }
        for split, count in counts.items()
    }


def class_folders(folder: Path, counts: Mapping[str, int], seed: int = 0, short_px: tuple[int, int] = SHORT_PX) -> Path:
    """Write SPLIT/CLASS/NNN.jpg, every fourth a PNG, below `folder`; counts are images of each class by split."""
    for split, classes in photographs(counts, seed, short_px).items():
        for label, images in classes.items():
            (folder / split / label).mkdir(parents=True)
            for number, image in enumerate(images):
                image.save(folder / split / label / f"{number:03}.{'png' if number % 4 == 3 else 'jpg'}", quality=90)
    return folder


def stanford40(
    folder: Path, train: int, test: int, seed: int = 0, short_px: tuple[int, int] = SHORT_PX, annotations: bool = False
) -> Path:
    """Write the layout of Stanford40 with so many images of each class for training and testing.

    JPEGImages/CLASS_NNN.jpg, ImageSplits/CLASS_{train,test}.txt (a file name a line) and, with `annotations`,
    XMLAnnotations/CLASS_NNN.xml. The classes are names of Stanford40's own.
    """
    names = dict(zip(CLASSES, ("taking_photos", "gardening", "blowing_bubbles"), strict=True))
    for part in ("JPEGImages", "ImageSplits", *(["XMLAnnotations"] if annotations else [])):
        (folder / part).mkdir(parents=True)
    numbers = dict.fromkeys(CLASSES, 0)
    for split, classes in photographs({"train": train, "test": test}, seed, short_px).items():
        for label, images in classes.items():
            listed = []
            for image in images:
                numbers[label] += 1
                stem = f"{names[label]}_{numbers[label]:03}"
                image.save(folder / "JPEGImages" / f"{stem}.jpg", quality=90)
                listed.append(f"{stem}.jpg")
                if annotations:
                    (folder / "XMLAnnotations" / f"{stem}.xml").write_text(_annotation(stem, names[label], image))
            (folder / "ImageSplits" / f"{names[label]}_{split}.txt").write_text("".join(f"{n}\n" for n in listed))
    return folder


def _one(
    rng: np.random.Generator, whole: list[NDArray[np.uint8]], number: int, short_px: tuple[int, int]
) -> Image.Image:
    short = int(rng.integers(short_px[0], short_px[1] + 1))
    long = int(short * rng.uniform(1, 1.5))
    height, width = (short, long) if rng.random() < 0.7 else (min(long, LARGEST_PX[0]), short)
    if number == len(whole):
        return _bubbles(rng, height, width)
    top, left = rng.integers(0, LARGEST_PX[0] - height + 1), rng.integers(0, LARGEST_PX[1] - width + 1)
    piece = whole[number][top : top + height, left : left + width].astype(np.float32)
    return Image.fromarray((piece * rng.uniform(0.7, 1)).astype(np.uint8))


def _bubbles(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    image = Image.new("RGB", (width, height), _colour(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.05, 0.25) * min(height, width)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=_colour(rng), width=3)
    return image


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = rng.integers(0, 256, 3).tolist()
    return red, green, blue


def _annotation(stem: str, label: str, image: Image.Image) -> str:
    return (
        f"<annotation><filename>{stem}.jpg</filename><size><width>{image.width}</width><height>{image.height}</height>"
        f"<depth>3</depth></size><object><name>person</name><action>{label}</action></object></annotation>\n"
    )
