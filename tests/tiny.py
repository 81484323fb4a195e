"""A data set of 64 images and networks that train on it in a second."""

import copy
import functools

import numpy as np
import torch

from pipeline.data import augment
from pipeline.data.arrays import Split
from pipeline.data.card import DataCard
from pipeline.data.feed import Feed
from pipeline.distillation.base import Method, Teacher, find
from pipeline.distillation.batch import Batch
from pipeline.models.base import Classifier, build
from pipeline.settings.data import Normalization

NORMALIZATION = Normalization(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
CLASSES = 4
IMAGE_PX = 16
"""Of `card`, `split`, `batch` and `method`; a test may set another."""
CPU = torch.device("cpu")
SETTINGS: dict[str, dict[str, object]] = {
    "crd": {"num_negatives": 16},
    "crld": {"weak_threshold": 0.25, "strong_threshold": 0.25},  # no teacher here is surer
    "semckd": {"batch_size": 8},
}
"""What a method needs to fit 64 images and `batch()`, where its defaults do not."""


def card(train: int = 64, classes: int = CLASSES, image_px: int | None = None) -> DataCard:
    counts = {"train": train, "val": 32, "test": 32}
    return DataCard(
        source="tiny",
        labels=tuple(f"class {k}" for k in range(classes)),
        image_px=image_px or IMAGE_PX,
        storage_px=image_px or IMAGE_PX,
        counts=counts,
        class_counts={name: (count // classes,) * classes for name, count in counts.items()},
        normalization=NORMALIZATION,
        sha256={"train/images.npy": "0" * 64},
        licence=None,
    )


def split(images: int = 64, image_px: int | None = None, seed: int = 0) -> Split:
    """Noise with a bright quarter that tells the class: learnable in a few steps."""
    image_px = image_px or IMAGE_PX
    generator = np.random.default_rng(seed)
    labels = np.arange(images, dtype=np.int64) % CLASSES
    pixels = generator.integers(0, 128, (images, image_px, image_px, 3), dtype=np.uint8)
    half = image_px // 2
    for image, label in zip(pixels, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[row * half : (row + 1) * half, column * half : (column + 1) * half] += 100
    return Split(pixels, labels)


def feed(images: int = 64, seed: int = 0) -> Feed:
    return Feed(split(images, seed=seed), NORMALIZATION, CPU)


def normalized(pixels: torch.Tensor, normalization: Normalization = NORMALIZATION) -> torch.Tensor:
    """What networks see of uint8 images (B, H, W, 3)."""
    return augment.Normalizer(normalization, pixels.shape[2], pixels.device)(pixels)


def network(arch: str = "resnet8", classes: int = CLASSES, seed: int = 0) -> Classifier:
    """The same weights for the same arguments, and the same random numbers after it, whether it was made or copied."""
    return _copy(arch, classes, seed, None)


def _copy(arch: str, classes: int, seed: int, seen_px: int | None) -> Classifier:
    model, state = _made(arch, classes, seed, seen_px)
    torch.set_rng_state(state)
    return copy.deepcopy(model)


@functools.lru_cache(maxsize=16)
def _made(arch: str, classes: int, seed: int, seen_px: int | None) -> tuple[Classifier, torch.Tensor]:
    """A network that has seen a batch of images of that size, if any, and the state of the generator behind it."""
    torch.manual_seed(seed)
    model = build({"arch": arch, "num_classes": classes})
    if seen_px is not None:
        model.train()(torch.randn(16, 3, seen_px, seen_px))
    return model, torch.get_rng_state()


def method(name: str, student: str = "resnet8", teacher: str = "resnet14", **config: object) -> Method:
    """A method on fresh networks; the teacher has seen a batch, so that its BN statistics are not the initial ones."""
    module, taught = find(name), _copy(teacher, CLASSES, 1, IMAGE_PX).eval()
    made: Method = module.Method(
        module.Config(**(SETTINGS.get(name, {}) | config)),
        network(student, seed=2),
        Teacher(taught, NORMALIZATION),
        card(),
    )
    return made


def batch(size: int = 8, seed: int = 0) -> Batch:
    torch.manual_seed(seed)
    images = torch.randn(size, 3, IMAGE_PX, IMAGE_PX)
    return Batch(
        images=images,
        labels=torch.arange(size) % CLASSES,
        positions=torch.arange(size),
        progress=0.5,
        epoch=1,
        strong=images.flip(3) / 2,
    )
