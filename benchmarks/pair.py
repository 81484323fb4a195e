"""A method on two fresh networks, and the recipe of the CRD benchmark, for benchmarks that need no trained ones."""

import torch

from benchmarks.plain import PADDING_PX
from pipeline.data.card import DataCard
from pipeline.distillation.base import Method, Teacher, find
from pipeline.models.base import build
from pipeline.params import Augment, Normalization, Train

CLASSES, IMAGE_PX = 100, 32
NORMALIZATION = Normalization(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
SETTINGS = Train(epochs=240, drop_last=True)
AUGMENT = Augment(crop_padding_px=PADDING_PX, flip=True)
CPU = torch.device("cpu")


def make_card(images: int) -> DataCard:
    """Of a training set of so many images."""
    return DataCard(
        source="benchmark",
        labels=tuple(map(str, range(CLASSES))),
        image_px=IMAGE_PX,
        counts={"train": images, "val": 1, "test": 1},
        class_counts={},
        normalization=NORMALIZATION,
        sha256={},
        licence=None,
    )


def make_method(teacher: str, student: str, name: str, images: int) -> Method:
    """The method on fresh networks; KD-like methods with their own weights, the teacher in eval mode."""
    torch.manual_seed(0)
    networks = [build({"arch": arch, "num_classes": CLASSES}) for arch in (teacher, student)]
    module = find(name)
    config = module.Config(teacher_bn="eval") if module.Method.needs_teacher else module.Config()
    method: Method = module.Method(config, networks[1], Teacher(networks[0], NORMALIZATION), make_card(images))
    return method
