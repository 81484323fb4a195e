"""WRN-d-k: wide residual networks of pre-activation blocks, named wrn_DEPTH_WIDTH (wrn_16_2, wrn_40_2, ...).

d = 6n + 4, three stages of n blocks, widths 16k 32k 64k, no dropout. A block that changes the shape takes its
shortcut from the activated input (1x1 convolution, no BN).
Zagoruyko, Komodakis, "Wide Residual Networks", arXiv:1605.07146.
"""

import math
import re
from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from pipeline.models import base
from pipeline.models.base import Tap
from pipeline.system.errors import ParamsError

SIZES = tuple(
    f"wrn_{depth}_{width}"
    for depth, widths in ((10, (1, 2, 4)), (16, (1, 2, 4)), (28, (1, 2, 4, 10)), (40, (1, 2, 4)))
    for width in widths
)
"""The usual ones; `build` makes others, too."""


def build(spec: base.Spec) -> "WRN":
    """A WRN with fresh weights. Raises ParamsError unless the depth is 6n + 4."""
    match = re.fullmatch(r"wrn_(\d+)_(\d+)", spec["arch"])
    if not match or (int(match[1]) - 4) % 6 or int(match[1]) < 10 or int(match[2]) < 1:
        raise ParamsError(
            f"there is no '{spec['arch']}'. A WRN is named wrn_DEPTH_WIDTH, with a depth of 6n + 4, such as wrn_16_2, "
            "wrn_28_4 or wrn_40_2."
        )
    return WRN(spec, blocks_per_stage=(int(match[1]) - 4) // 6, width=int(match[2]))


class PreActivationBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv plus shortcut; its first BN and ReLU are applied by the network, which taps them."""

    conv_norms = (("conv1", "bn2"),)

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False) if channels_in != channels else None

    def forward(self, raw: Tensor, act: Tensor) -> Tensor:
        """raw and act = ReLU(bn1(raw)), both (B, C_in, H, W) -> (B, C, H/stride, W/stride)."""
        inner = self.conv2(functional.relu(self.bn2(self.conv1(act)), inplace=True))
        total: Tensor = inner + (raw if self.shortcut is None else self.shortcut(act))
        return total


class WRN(base.Classifier):
    """Stem convolution, three stages of pre-activation blocks, BN, ReLU, global average, linear head."""

    def __init__(self, spec: base.Spec, blocks_per_stage: int, width: int) -> None:
        super().__init__()
        self.spec = spec
        n = blocks_per_stage
        self.stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        widths = [16 * width] * n + [32 * width] * n + [64 * width] * n
        strides = [2 if index in (n, 2 * n) else 1 for index in range(3 * n)]
        inputs = [16, *widths[:-1]]
        self.blocks = nn.ModuleList(map(PreActivationBlock, inputs, widths, strides))
        self.measure_again()
        self.bn: nn.Module = nn.BatchNorm2d(widths[-1])
        self.fc = nn.Linear(widths[-1], spec["num_classes"])
        nn.init.zeros_(self.fc.bias)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, 0.0, math.sqrt(2 / fan_out))

    def measure_again(self) -> None:
        """Blocks may have gone, but not the first of a stage that halves the map."""
        self.stage_ends = base.ends_before_halving([block.conv1.stride[0] for block in self._blocks()])

    def walk(self, images: Tensor) -> Iterator[Tap]:
        """A block's tap is handed out when the next block's first BN and ReLU have run on it.

        A neck comes behind the last residual sum, before the final BN.
        """
        raw = self.stem(images)
        for block in self._blocks():
            pre = block.bn1(raw)
            act = functional.relu(pre)
            yield Tap(raw, pre, act)
            raw = block(raw, act)
        raw = self.neck(raw)
        pre = self.bn(raw)
        yield Tap(raw, pre, functional.relu(pre))

    def drop_head(self) -> None:
        """The final BN belongs to the head: the last residual sum comes before it."""
        super().drop_head()
        self.bn = nn.Identity()

    def stage_norms(self) -> list[nn.BatchNorm2d]:
        """First BN of stages 2 and 3, and the final BN."""
        norms = [block.bn1 for block in self._blocks()] + [cast(nn.BatchNorm2d, self.bn)]
        return [norms[end + 1] for end in self.stage_ends]

    def _blocks(self) -> list[PreActivationBlock]:
        return cast(list[PreActivationBlock], list(self.blocks))
