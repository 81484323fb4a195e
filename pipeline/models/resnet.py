"""ResNet: post-activation blocks, in the CIFAR form (6n+2 layers) and the ImageNet form (18, 34, 50).

    resnet8 .. resnet110      stem 3x3, stages of n basic blocks, widths 16 32 64
    resnet8x4 resnet32x4      the same, stem 32, widths 64 128 256
    resnet18 resnet34         stem 7x7/2 and 3x3/2 max-pool, stages [2 2 2 2] / [3 4 6 3], widths 64 128 256 512
    resnet50                  the same with bottlenecks, stages [3 4 6 3], widths 256 512 1024 2048
    resnet18_cifar ...        the last three with a 3x3 stem and no pooling, for small images

Parameters are named as torchvision names them, so that the usual checkpoints load.
He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", arXiv:1512.03385. The shortcut is a 1x1
convolution with BN where the shape changes (option B), which is what the distillation literature uses on CIFAR too.
A bottleneck has its stride on the 3x3 convolution, as torchvision and that literature have it; in the paper it is on
the first 1x1. resnet50_cifar is the ResNet-50 of Tian, Krishnan, Isola, arXiv:1910.10699, and of those that follow it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, cast

from torch import Tensor, nn
from torch.nn import functional

from pipeline.models import base
from pipeline.models.base import Tap
from pipeline.system.errors import ParamsError
from pipeline.system.registry import nearest


@dataclass(frozen=True)
class _Size:
    stem: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    imagenet_stem: bool
    bottleneck: bool = False


def _cifar(layers: int, stem: int = 16, widths: tuple[int, ...] = (16, 32, 64)) -> _Size:
    return _Size(stem, widths, ((layers - 2) // 6,) * 3, imagenet_stem=False)


_WIDE = (64, 128, 256, 512)
SIZES = {
    **{f"resnet{layers}": _cifar(layers) for layers in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{layers}x4": _cifar(layers, 32, (64, 128, 256)) for layers in (8, 32)},
    "resnet18": _Size(64, _WIDE, (2, 2, 2, 2), imagenet_stem=True),
    "resnet34": _Size(64, _WIDE, (3, 4, 6, 3), imagenet_stem=True),
    "resnet50": _Size(64, _WIDE, (3, 4, 6, 3), imagenet_stem=True, bottleneck=True),
    "resnet18_cifar": _Size(64, _WIDE, (2, 2, 2, 2), imagenet_stem=False),
    "resnet34_cifar": _Size(64, _WIDE, (3, 4, 6, 3), imagenet_stem=False),
    "resnet50_cifar": _Size(64, _WIDE, (3, 4, 6, 3), imagenet_stem=False, bottleneck=True),
}


def build(spec: base.Spec) -> "ResNet":
    """A ResNet of SIZES with fresh weights. Raises ParamsError for a size that is not there."""
    if spec["arch"] not in SIZES:
        raise ParamsError(
            f"there is no '{spec['arch']}'{nearest(spec['arch'], list(SIZES))}. The ResNets are {', '.join(SIZES)}."
        )
    return ResNet(spec, SIZES[spec["arch"]])


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus shortcut; returns the sum before its ReLU, which the network applies."""

    conv_norms = (("conv1", "bn1"), ("conv2", "bn2"))

    expansion: ClassVar[int] = 1

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(channels_in, channels, stride)

    def forward(self, act: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H/stride, W/stride)."""
        inner = functional.relu(self.bn1(self.conv1(act)), inplace=True)
        total: Tensor = self.bn2(self.conv2(inner)) + self.downsample(act)
        return total

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The BN in front of the sum."""
        return self.bn2


class Bottleneck(nn.Module):
    """conv1x1-BN-ReLU-conv3x3-BN-ReLU-conv1x1-BN plus shortcut; returns the sum before its ReLU, as a basic block."""

    conv_norms = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    expansion: ClassVar[int] = 4
    """Channels that come out, by those inside."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, self.expansion * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.expansion * channels)
        self.downsample = _shortcut(channels_in, self.expansion * channels, stride)

    def forward(self, act: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, 4C, H/stride, W/stride)."""
        inner = functional.relu(self.bn1(self.conv1(act)), inplace=True)
        inner = functional.relu(self.bn2(self.conv2(inner)), inplace=True)
        total: Tensor = self.bn3(self.conv3(inner)) + self.downsample(act)
        return total

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The BN in front of the sum."""
        return self.bn3


def _shortcut(channels_in: int, channels: int, stride: int) -> nn.Module:
    if stride == 1 and channels_in == channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


class ResNet(base.Classifier):
    """Stem, stages of basic blocks or bottlenecks, global average, linear head."""

    neck_feeds_pooling = True
    conv_norms = (("conv1", "bn1"),)

    def __init__(self, spec: base.Spec, size: _Size) -> None:
        super().__init__()
        self.spec = spec
        self.conv1 = (
            nn.Conv2d(3, size.stem, 7, 2, 3, bias=False)
            if size.imagenet_stem
            else nn.Conv2d(3, size.stem, 3, 1, 1, bias=False)
        )
        self.bn1 = nn.BatchNorm2d(size.stem)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if size.imagenet_stem else nn.Identity()
        channels = size.stem
        block = Bottleneck if size.bottleneck else BasicBlock
        for number, (width, depth) in enumerate(zip(size.widths, size.depths, strict=True), start=1):
            strides = [1 if number == 1 else 2, *[1] * (depth - 1)]
            inputs = [channels, *[width * block.expansion] * (depth - 1)]
            blocks = (block(i, width, s) for i, s in zip(inputs, strides, strict=True))
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            channels = width * block.expansion
        self.num_stages = len(size.depths)
        self.measure_again()
        self.fc = nn.Linear(channels, spec["num_classes"])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stages(self) -> list[nn.Sequential]:
        """layer1, layer2, ..."""
        return [cast(nn.Sequential, self.get_submodule(f"layer{n + 1}")) for n in range(self.num_stages)]

    def measure_again(self) -> None:
        """Blocks may have gone, but not all of a stage."""
        self.stage_ends = tuple(end - 1 for end in accumulate(map(len, self.stages())))

    def walk(self, images: Tensor) -> Iterator[Tap]:
        """The stem's tap is taken before the pooling of the ImageNet form; a neck comes behind the last ReLU."""
        pre = self.bn1(self.conv1(images))
        act = functional.relu(pre)
        yield Tap(act, pre, act)
        act = self.maxpool(act)
        blocks = [block for stage in self.stages() for block in stage]
        for block in blocks:
            pre = block(act)
            # Not in place: that would silently rectify the `pre` tap.
            act = functional.relu(pre)
            if block is blocks[-1]:
                act = self.neck(act)
            yield Tap(act, pre, act)

    def stage_norms(self) -> list[nn.BatchNorm2d]:
        """The last BN of each stage's last block: the tapped sum is that BN's output plus the shortcut."""
        return [cast(BasicBlock | Bottleneck, stage[-1]).last_norm for stage in self.stages()]
