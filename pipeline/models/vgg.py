"""VGG with batch normalisation, in the form of the CIFAR benchmarks: five blocks, global average, one linear layer.

    vgg8 vgg11 vgg13 vgg16 vgg19      blocks of [conv3x3-BN-ReLU] x n, widths 64 128 256 512 512

A 2x2 max-pool stands behind each of the first three blocks, and behind the fourth for images of 64 px: maps are of 32,
16, 8, 4 and 4 px, or of 64, 32, 16, 8 and 4 px. The first block is the stem, the others are the stages. They are no
residual blocks.

Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", arXiv:1409.1556. This form is
that of Tian, Krishnan, Isola, arXiv:1910.10699.
"""

import math
from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from pipeline.models import base
from pipeline.models.base import Tap
from pipeline.system.errors import ParamsError
from pipeline.system.registry import nearest

_WIDTHS = (64, 128, 256, 512, 512)
SIZES = {
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
"""Convolutions of each block."""
_POOLED_ONCE_MORE_PX = 64


def build(spec: base.Spec) -> "VGG":
    """A VGG of SIZES with fresh weights. Raises ParamsError for one that is not there."""
    if spec["arch"] not in SIZES:
        raise ParamsError(
            f"there is no '{spec['arch']}'{nearest(spec['arch'], list(SIZES))}. The VGGs are {', '.join(SIZES)}; timm "
            "has those with two hidden linear layers."
        )
    return VGG(spec, SIZES[spec["arch"]])


class VGG(base.Classifier):
    """Five blocks, global average, linear head."""

    neck_feeds_pooling = True
    has_block_taps = False

    def __init__(self, spec: base.Spec, depths: tuple[int, ...]) -> None:
        super().__init__()
        self.spec = spec
        self.stage_ends = (0, 1, 2, 3)
        inputs = (3, *_WIDTHS[:-1])
        self.blocks = nn.ModuleList(map(_block, inputs, _WIDTHS, depths))
        self.fc = nn.Linear(_WIDTHS[-1], spec["num_classes"])
        nn.init.normal_(self.fc.weight, 0.0, 0.01)
        nn.init.zeros_(self.fc.bias)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, math.sqrt(2 / (9 * module.out_channels)))
                nn.init.zeros_(cast(Tensor, module.bias))

    def walk(self, images: Tensor) -> Iterator[Tap]:
        """A block's tap is taken before the pooling behind it; a neck comes behind the last ReLU."""
        pooled_behind = {0, 1, 2} | ({3} if images.shape[-1] == _POOLED_ONCE_MORE_PX else set())
        act = images
        for number, block in enumerate(self.blocks):
            pre = block(act)
            # Not in place: that would silently rectify the `pre` tap.
            act = functional.relu(pre)
            if number == len(self.blocks) - 1:
                act = self.neck(act)
            yield Tap(act, pre, act)
            if number in pooled_behind:
                act = functional.max_pool2d(act, 2)

    def stage_norms(self) -> list[nn.BatchNorm2d]:
        """The last BN of each block behind the stem, whose output is the tap."""
        return [cast(nn.BatchNorm2d, cast(nn.Sequential, block)[-1]) for block in list(self.blocks)[1:]]


def _block(channels_in: int, channels: int, depth: int) -> nn.Sequential:
    """All but the last ReLU, which the network applies."""
    layers: list[nn.Module] = []
    for number in range(depth):
        layers += [nn.ReLU(inplace=True)] if number > 0 else []
        layers += [nn.Conv2d(channels if number > 0 else channels_in, channels, 3, 1, 1), nn.BatchNorm2d(channels)]
    return nn.Sequential(*layers)
