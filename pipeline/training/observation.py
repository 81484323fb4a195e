"""After each epoch a method may show something of itself, which goes into history.json beside the scores."""

from typing import Any

import torch

from pipeline.data.feed import Feed
from pipeline.devices import distributed
from pipeline.devices.precision import autocast
from pipeline.distillation.base import Method
from pipeline.settings.training import Train

_MOST, _FEWEST = 256, 16


@torch.inference_mode()
def observe(objective: Method, train_images: int, val: Feed, settings: Train) -> dict[str, Any]:
    """What the method shows on a sample of validation images, the same ones after every epoch; in training's precision.

    The sample is a fiftieth of the number of training images, within limits, which keeps this below 2 % of an epoch: it
    goes forwards alone, through the same networks. Leaves the objective in eval mode.
    """
    images = min(_MOST, max(_FEWEST, train_images // 50), len(val))
    # Drawn, because a split may lie in the order of its classes; by a generator of its own, so that training never
    # notices.
    drawn = torch.randperm(len(val), generator=torch.Generator().manual_seed(0))[:images]
    mine = drawn[distributed.share(images)].to(val.device)
    parts = mine.tensor_split(-(-len(mine) * distributed.world() // settings.batch_size))
    objective.eval()
    with autocast(val.device, settings.precision):
        return objective.observe((val.middles(positions) for positions in parts), images)
