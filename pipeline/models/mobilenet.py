"""MobileNetV2 for small images: inverted residuals, narrow between blocks, wide inside, linear at their end.

    mobilenet_v2_half    stem 3x3/2; the blocks below with half the channels; a 1x1 convolution to 1280 channels

    t  expansion              1   6   6   6   6   6   6
    c  channels, by width    16  24  32  64  96 160 320     stem 32 by width
    n  blocks                 1   2   3   4   3   3   1
    s  stride of the first    1   1   2   2   1   2   1

    block    conv1x1 (C -> tC), BN, ReLU, depthwise conv3x3 with the stride, BN, ReLU, conv1x1 (tC -> c), BN;
             plus its input, where that has the same shape
    blocks   raw = pre = act: the block's output, linear, with negatives; nothing rectifies it behind the block
    stages   the last block of each resolution: 12, 16, 48 and 160 channels, of 32-pixel images 16, 8, 4 and 2 px
    pooled   average of ReLU(BN(conv1x1(last map))), 1280 numbers: the classifier reads no plain average of a tap

Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381,
Table 2. Differences, as the CRD benchmark (Tian, Krishnan, Isola, arXiv:1910.10699) trains it on 32 pixels: the blocks
of 24 channels keep the resolution, every ReLU6 is a ReLU, and channels are rounded down, to no multiple. The stages are
those that the benchmark compares. As in Table 1 of the paper the first block, with t = 1, has its 1x1 convolution too.
"""

from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from pipeline.models import base
from pipeline.models.base import Tap
from pipeline.system.errors import ParamsError
from pipeline.system.registry import nearest

SIZES = {"mobilenet_v2_half": 0.5}
"""How many times as many channels as below."""
_STEM, _HEAD = 32, 1280
_SETTINGS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""(t, c, n, s) as above."""


def build(spec: base.Spec) -> "MobileNetV2":
    """A MobileNetV2 of SIZES with fresh weights. Raises ParamsError for one that is not there."""
    if spec["arch"] not in SIZES:
        raise ParamsError(
            f"there is no '{spec['arch']}'{nearest(spec['arch'], list(SIZES))}. The MobileNets are "
            f"{', '.join(SIZES)}; timm has others, such as timm/mobilenetv2_100."
        )
    return MobileNetV2(spec, SIZES[spec["arch"]])


class InvertedResidual(nn.Module):
    """The block above."""

    def __init__(self, channels_in: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = expansion * channels_in
        self.expand = base.conv_norm(channels_in, inner, 1)
        self.depthwise = base.conv_norm(inner, inner, 3, stride, groups=inner)
        self.project = base.conv_norm(inner, channels, 1)
        self.stride = stride
        self.keeps_shape = stride == 1 and channels_in == channels

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H/stride, W/stride)."""
        inner = functional.relu(self.expand(maps), inplace=True)
        inner = functional.relu(self.depthwise(inner), inplace=True)
        out: Tensor = self.project(inner)
        return out + maps if self.keeps_shape else out


class MobileNetV2(base.Classifier):
    """Stem, inverted residuals, the last convolution, global average, linear head."""

    fc_reads_average = False

    def __init__(self, spec: base.Spec, width: float) -> None:
        super().__init__()
        self.spec = spec
        channels = int(_STEM * width)
        self.stem = base.conv_norm(3, channels, 3, 2)
        blocks = []
        for expansion, full, depth, first in _SETTINGS:
            for stride in [first, *[1] * (depth - 1)]:
                blocks.append(InvertedResidual(channels, int(full * width), stride, expansion))
                channels = int(full * width)
        self.blocks = nn.ModuleList(blocks)
        self.measure_again()
        self.head = base.conv_norm(channels, _HEAD, 1)
        self.fc = nn.Linear(_HEAD, spec["num_classes"])
        nn.init.normal_(self.fc.weight, 0.0, 0.01)
        nn.init.zeros_(self.fc.bias)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # torch counts a depthwise kernel's fan-out over all channels, and so does the benchmark.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def measure_again(self) -> None:
        """Blocks may have gone, but not the first of a stage, which halves the map."""
        self.stage_ends = base.ends_before_halving([block.stride for block in self._blocks()])

    def walk(self, images: Tensor) -> Iterator[Tap]:
        """A neck comes behind the last block, before the last convolution."""
        pre = self.stem(images)
        maps = functional.relu(pre)
        yield Tap(maps, pre, maps)
        blocks = self._blocks()
        for block in blocks[:-1]:
            maps = block(maps)
            yield Tap(maps, maps, maps)
        pre = blocks[-1](maps)
        maps = self.neck(pre)
        yield Tap(maps, pre, maps)

    @property
    def map_channels(self) -> int:
        """Of the last block; the classifier reads more."""
        return self.stage_norms()[-1].num_features

    def drop_head(self) -> None:
        """The last convolution belongs to the head: it comes behind the last block."""
        super().drop_head()
        del self.head

    def stage_norms(self) -> list[nn.BatchNorm2d]:
        """The last BN of each stage's last block; in all but the last stage the tap also holds the block's input.

        No ReLU follows, as OFD supposes of its teacher; the benchmark gives it these all the same.
        """
        blocks = self._blocks()
        return [cast(nn.BatchNorm2d, blocks[end].project[1]) for end in self.stage_ends]

    def _pooled(self, last: Tensor) -> Tensor:
        return base.pool(functional.relu(self.head(last)))

    def _blocks(self) -> list[InvertedResidual]:
        return cast(list[InvertedResidual], list(self.blocks))
