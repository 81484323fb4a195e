"""A method on two fresh networks, and the recipe of the CRD benchmark, for benchmarks that need no trained ones."""

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.plain import PADDING_PX
from pipeline.data.arrays import Split
from pipeline.data.card import DataCard
from pipeline.data.feed import Feed, num_batches
from pipeline.devices.memory import keep_freed_memory
from pipeline.distillation.base import Method, Teacher, find
from pipeline.distillation.batch import Batch, Output
from pipeline.models.base import build, count_macs
from pipeline.settings.data import Augment, Normalization
from pipeline.settings.training import Train
from pipeline.system import interruption
from pipeline.training import engine
from pipeline.training.schedule import Schedule
from pipeline.training.state import Tally

CLASSES, IMAGE_PX = 100, 32
NORMALIZATION = Normalization(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
# A rate at which noise and fresh networks make no loss overflow: SemCKD's does at the recipe's 0.05.
SETTINGS = Train(epochs=240, lr=1e-4, drop_last=True)
AUGMENT = Augment(crop_padding_px=PADDING_PX, flip=True)
CPU = torch.device("cpu")


def make_card(images: int) -> DataCard:
    """Of a training set of so many images."""
    return DataCard(
        source="benchmark",
        labels=tuple(map(str, range(CLASSES))),
        image_px=IMAGE_PX,
        storage_px=IMAGE_PX,
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


def make_step(teacher: str, student: str, name: str) -> Callable[[], Output]:
    """Our step of optimisation on one batch of noise that lies ready; takes this process's allocator with it."""
    keep_freed_memory()
    method = make_method(teacher, student, name, SETTINGS.batch_size)
    method.begin(torch.arange(SETTINGS.batch_size) % CLASSES)
    method.place_on(CPU)
    return step_of(method, IMAGE_PX, SETTINGS)


def step_of(method: Method, image_px: int, settings: Train) -> Callable[[], Output]:
    """A step of a method that is placed, on one batch of noise."""
    optimizer = engine.make_optimizer(method.train(), settings)
    images = torch.randn(settings.batch_size, 3, image_px, image_px).contiguous(memory_format=torch.channels_last)
    batch = Batch(images, torch.arange(len(images)) % CLASSES, torch.arange(len(images)), 0.0, 0)
    return lambda: engine.train_step(method, optimizer, batch, settings)


def epoch_of(method: Method, optimizer: torch.optim.Optimizer, feed: Feed, augment: Augment) -> Callable[[], object]:
    """The first epoch of our loop over `feed`, by a method that is placed, as often as it is called."""
    schedule = Schedule(SETTINGS, num_batches(len(feed), SETTINGS.batch_size, SETTINGS.drop_last))
    stop = interruption.StopRequest()
    return lambda: engine.train_epoch(method, optimizer, schedule, feed, SETTINGS, augment, 0, 0, Tally(), stop)


def noise_split(images: int) -> Split:
    """So many images of noise with labels, the same ones every time."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (images, IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8)
    return Split(pixels, generator.integers(0, CLASSES, images))


def flops_per_image(teacher: str, student: str, name: str) -> float:
    """Floating-point operations of the two networks in one step: two for each multiply-accumulate.

    The student runs forward, and does twice that work backwards. What a method computes beside them is not counted.
    """
    macs_t, macs_s = (
        count_macs(build({"arch": arch, "num_classes": CLASSES}), IMAGE_PX) for arch in (teacher, student)
    )
    return 2.0 * (3 * macs_s + (macs_t if find(name).Method.needs_teacher else 0))
