"""One epoch of the training loop on prepared data with next to no network, so that reading is most of the work.

    python -m benchmarks.bare_epoch PARAMS DATA STATE     (as benchmarks.memory starts it)

Feed, engine and state are those of every training; the network sees each image in patches of 16 px and is not saved.
Prints the images per second of the epoch.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.data import card as cards
from pipeline.data.arrays import Split
from pipeline.data.feed import Feed
from pipeline.devices.memory import keep_freed_memory
from pipeline.devices.precision import best_device
from pipeline.distillation import vanilla
from pipeline.models.base import Classifier, Tap
from pipeline.settings import params as parameters
from pipeline.system.run_key import run_key
from pipeline.training import engine
from pipeline.training.resume import Resume
from pipeline.training.state import Record

PATCH_PX, CHANNELS = 16, 8


class Patches(Classifier):
    """A linear map of each patch, ReLU, the mean over all patches, and the head."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.spec = {"arch": "patches", "num_classes": num_classes}
        self.stage_ends = (0,)
        self.patches = nn.Conv2d(3, CHANNELS, PATCH_PX, PATCH_PX)
        self.fc = nn.Linear(CHANNELS, num_classes)

    def walk(self, images: Tensor) -> Iterator[Tap]:
        """The patches, linear, and their ReLU in the place of a block."""
        raw = self.neck(self.patches(images))
        yield Tap(raw, raw, raw)
        yield Tap(raw, raw, raw.relu())


def main(params: Path, data: Path, state: Path) -> None:
    """Train and say how fast."""
    settings, card = parameters.load(params), cards.load(data)
    torch.manual_seed(settings.teacher.seed)
    objective = vanilla.Method(vanilla.Config(), Patches(card.num_classes), None, card)
    device = best_device()
    train, val = (Feed(Split.load(data, name, card), card.normalization, device) for name in ("train", "val"))
    records: list[Record] = []
    resume = Resume(state, run_key({"data": card.sha256}, "torch"))
    seed = settings.teacher.seed
    engine.fit(objective, train, val, settings.teacher.train, settings.augment, seed, resume, records.append)
    print(records[-1]["images_per_s"])


if __name__ == "__main__":
    keep_freed_memory()
    main(*map(Path, sys.argv[1:]))
