"""ShuffleNet V1 (three groups) and V2 (1x), in the form of the CIFAR benchmarks: a 1x1 stem and no pooling behind it.

    shufflenet_v1      stem 24, stages of 4 8 4 units, 240 480 960 channels at 1/2 1/4 1/8 of the image's size
    shufflenet_v2      stem 24, stages of 4 8 4 units, 116 232 464 channels, then a 1x1 convolution to 1024

Zhang, Zhou, Lin, Sun, "ShuffleNet", arXiv:1707.01083; Ma, Zhang, Zheng, Sun, "ShuffleNet V2", arXiv:1807.11164. This
form is that of Tian, Krishnan, Isola, arXiv:1910.10699. Its V1 has a ReLU behind the depthwise convolution too, and its
`pre` maps of V2 keep the order of channels before the shuffle; here ReLU(pre) = act holds for every channel.
"""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models import base
from pipeline.models.base import Tap
from pipeline.system.errors import ParamsError
from pipeline.system.registry import nearest

SIZES = {"shufflenet_v1": (240, 480, 960), "shufflenet_v2": (116, 232, 464)}
"""Channels of the stages."""
_DEPTHS = (4, 8, 4)
_STEM, _GROUPS, _HEAD = 24, 3, 1024


def build(spec: base.Spec) -> "ShuffleNet":
    """A ShuffleNet of SIZES with fresh weights. Raises ParamsError for one that is not there."""
    if spec["arch"] not in SIZES:
        raise ParamsError(
            f"there is no '{spec['arch']}'{nearest(spec['arch'], list(SIZES))}. The ShuffleNets are {', '.join(SIZES)}."
        )
    kind = ShuffleNet if spec["arch"] == "shufflenet_v1" else ShuffleNetV2
    return kind(spec, SIZES[spec["arch"]])


def shuffled(maps: Tensor, groups: int) -> Tensor:
    """Channels of (B, C, H, W) dealt out: the first of each group, then the second of each, ..."""
    return functional.channel_shuffle(maps, groups) if groups > 1 else maps


class Unit(nn.Module):
    """V1: grouped 1x1, shuffle, depthwise 3x3, grouped 1x1, joined with its input; before the last ReLU.

    With stride 2 the averaged input is put before the result, and else added to it.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        made = channels - channels_in if stride == 2 else channels
        inner = made // 4
        self.groups = 1 if channels_in == _STEM else _GROUPS
        self.reduce = base.conv_norm(channels_in, inner, 1, groups=self.groups)
        self.depthwise = base.conv_norm(inner, inner, 3, stride, groups=inner)
        self.expand = base.conv_norm(inner, made, 1, groups=_GROUPS)

    def forward(self, act: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H/stride, W/stride)."""
        inner = shuffled(functional.relu(self.reduce(act), inplace=True), self.groups)
        made: Tensor = self.expand(functional.relu(self.depthwise(inner), inplace=True))
        if self.stride == 1:
            return made + act
        return torch.cat([made, functional.avg_pool2d(act, 3, 2, 1)], 1)


class UnitV2(nn.Module):
    """V2: one half of the channels passes, the other goes through 1x1, depthwise 3x3, 1x1; then they are shuffled.

    With stride 2 both halves are made of the whole input. The last ReLU is left to the network: what passes is
    rectified already.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        half = channels // 2
        own = channels_in if stride == 2 else half
        self.left = (
            nn.Sequential(base.conv_norm(own, own, 3, 2, groups=own), base.conv_norm(own, half, 1))
            if stride == 2
            else nn.Identity()
        )
        self.first = base.conv_norm(own, half, 1)
        self.depthwise = base.conv_norm(half, half, 3, stride, groups=half)
        self.last = base.conv_norm(half, half, 1)

    def forward(self, act: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H/stride, W/stride)."""
        passing, changing = act.chunk(2, 1) if self.stride == 1 else (act, act)
        inner = self.depthwise(functional.relu(self.first(changing), inplace=True))
        return shuffled(torch.cat([self.left(passing), self.last(inner)], 1), 2)


class ShuffleNet(base.Classifier):
    """V1: stem, units, global average, linear head."""

    neck_feeds_pooling = True
    unit: type[Unit | UnitV2] = Unit

    def __init__(self, spec: base.Spec, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.spec = spec
        self.stem = base.conv_norm(3, _STEM, 1)
        units, channels = [], _STEM
        for width, depth in zip(widths, _DEPTHS, strict=True):
            for stride in (2, *[1] * (depth - 1)):
                units.append(self.unit(channels, width, stride))
                channels = width
        self.blocks = nn.ModuleList(units)
        self.measure_again()
        self.fc = nn.Linear(channels, spec["num_classes"])

    def measure_again(self) -> None:
        """Blocks may have gone, but not the first of a stage, which halves the map."""
        self.stage_ends = base.ends_before_halving([cast(Unit | UnitV2, block).stride for block in self.blocks])

    def walk(self, images: Tensor) -> Iterator[Tap]:
        """A neck comes behind the last ReLU."""
        pre = self.stem(images)
        act = functional.relu(pre)
        yield Tap(act, pre, act)
        for number, block in enumerate(self.blocks, start=1):
            pre = block(act)
            # Not in place: that would silently rectify the `pre` tap.
            act = functional.relu(pre)
            if number == len(self.blocks):
                act = self.neck(act)
            yield Tap(act, pre, act)


class ShuffleNetV2(ShuffleNet):
    """V2: the same with its own units, and a 1x1 convolution before the average."""

    neck_feeds_pooling = False
    fc_reads_average = False
    unit = UnitV2

    def __init__(self, spec: base.Spec, widths: tuple[int, ...]) -> None:
        super().__init__(spec, widths)
        self.head = base.conv_norm(widths[-1], _HEAD, 1)
        self.fc = nn.Linear(_HEAD, spec["num_classes"])

    @property
    def map_channels(self) -> int:
        """Of the last unit; the classifier reads more."""
        return 2 * cast(nn.BatchNorm2d, cast(UnitV2, self.blocks[-1]).last[1]).num_features

    def drop_head(self) -> None:
        """The last convolution belongs to the head: it comes behind the last unit."""
        super().drop_head()
        del self.head

    def _pooled(self, last: Tensor) -> Tensor:
        return base.pool(functional.relu(self.head(last)))
