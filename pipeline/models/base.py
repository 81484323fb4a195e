"""The contract of every network: images -> logits, and one forward pass that can be looked into.

A tap is one place in a network, seen in three forms, because distillation methods disagree on where to look:

    form   post-activation nets (ResNet)       pre-activation nets (WRN)
    raw    what the block hands on: = act      the residual sum, no BN, no ReLU (has negatives)
    pre    the residual sum before its ReLU    the sum after the BN that follows it
    act    ReLU(pre)                           ReLU(pre)

Where blocks end linear, and nothing rectifies what they hand on (MobileNetV2), there is one form: raw = pre = act.

For pre-activation nets `pre` and `act` are the tensors that the next block computes anyway, handed out, never computed
a second time: a BN that runs twice in a step updates its running statistics twice.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.settings.data import Normalization
from pipeline.system import registry
from pipeline.system.errors import ParamsError

Spec = Mapping[str, Any]
"""Plain data from which `build` makes the same network again: {"arch": "resnet20", "num_classes": 100, ...}."""


class Tap(NamedTuple):
    """Feature map (B, C, H, W) of one place, in its three forms."""

    raw: Tensor
    pre: Tensor
    act: Tensor


@dataclass(frozen=True)
class Features:
    """All that one forward pass computes on its way to the logits."""

    stem: Tap
    blocks: tuple[Tap, ...]
    """Behind each residual block."""
    stages: tuple[Tap, ...]
    """Behind the last block of each stage; the last one's `act` feeds the pooling, or what a family has before it."""
    pooled: Tensor
    """(B, D) the global average of the last `act`, or of what a family makes of it; float32 under autocast too."""
    logits: Tensor
    """(B, K), float32 under autocast too."""


class MapShape(NamedTuple):
    """Size of a feature map without its batch axis."""

    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class Shapes:
    """Sizes of a network's taps, in the order of `Features`."""

    stem: MapShape
    blocks: tuple[MapShape, ...]
    stages: tuple[MapShape, ...]
    pooled: int
    classes: int


class Classifier(nn.Module):
    """images (B, 3, H, W), float and normalised -> logits (B, K).

    A family sets `spec`, `stage_ends` (the index of each stage's last block) and `fc`, the head, and writes `walk`.
    """

    neck_feeds_pooling: bool = False
    """Nothing but the global average and `fc` follows the neck, so that `fc` can absorb a linear one."""
    fc_reads_average: bool = True
    """`fc` reads the plain average of the last stage's `act`, and so can read another network's map that way too."""
    has_block_taps: bool = True
    """False: single blocks cannot be seen, and `blocks` are the stages once more."""
    spec: Spec
    stage_ends: tuple[int, ...]
    fc: nn.Linear
    neck: nn.Module
    """Maps (B, C, H, W) -> (B, C, H, W), linear. Nothing unless the spec has a "neck" or a method puts one in."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = nn.Identity()

    def walk(self, images: Tensor) -> Iterator[Tap]:
        """Run the network and hand out each tap when it is there: the stem, then every block.

        The last block's `raw` is what `neck` makes of it, and all that follows builds on that.
        """
        raise NotImplementedError

    def block_names(self) -> tuple[str, ...]:
        """Of `Features.blocks`: "2.1" is the first block of stage 2; "2" all of a stage whose blocks cannot be seen."""
        depths = [end - before for before, end in pairwise((-1, *self.stage_ends))]
        return tuple(
            f"{stage}.{block}" if self.has_block_taps or depth > 1 else str(stage)
            for stage, depth in enumerate(depths, start=1)
            for block in range(1, depth + 1)
        )

    @property
    def map_channels(self) -> int:
        """C of the last block's `raw` map, known before any pass."""
        return self.fc.in_features

    def drop_head(self) -> None:
        """Leave only what `walk` needs up to the last block's `raw`: a body that another head is put on.

        A family that has more than `fc` behind that map drops it too.
        """
        del self.fc

    def measure_again(self) -> None:
        """Find out anew what a family keeps about its sizes, after layers were changed from outside."""

    def merge_branches(self) -> None:
        """Put one layer in place of parallel ones that only training needs; in eval mode logits and taps stay.

        Changes the network itself, which cannot be trained any further. A family without such branches does nothing.
        """

    def stage_norms(self) -> list[nn.BatchNorm2d]:
        """The BN whose output is (nearly) the `pre` form of each stage, which OFD takes its margins from."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """logits (B, K); holds no feature map longer than the next one needs it."""
        for tap in self.walk(images):
            last = tap.act
        return self._classify(self._pooled(last))

    def features(self, images: Tensor) -> Features:
        """The same pass as `forward`, with everything on the way kept."""
        stem, *blocks = self.walk(images)
        pooled = self._pooled(blocks[-1].act)
        stages = tuple(blocks[end] for end in self.stage_ends)
        return Features(stem, tuple(blocks), stages, pooled, self._classify(pooled))

    def _pooled(self, last: Tensor) -> Tensor:
        """The last `act` (B, C, H, W) -> pooled (B, D). A family with layers around the average puts them here."""
        return pool(last)

    def _classify(self, pooled: Tensor) -> Tensor:
        # bf16 logits would carry two digits and make every softened probability coarse; this product costs nothing.
        with torch.autocast(pooled.device.type, enabled=False):
            logits: Tensor = self.fc(pooled)
        return logits


def pool(maps: Tensor) -> Tensor:
    """Global average (B, C, H, W) -> (B, C), in float32 where the maps are bf16."""
    return maps.mean((2, 3), dtype=torch.float32 if maps.dtype is torch.bfloat16 else None)


def conv_norm(channels_in: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without bias that keeps the map's size but for the stride, and the BN that reads it."""
    conv = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))


def ends_before_halving(strides: Sequence[int]) -> tuple[int, ...]:
    """The index of each stage's last block: the one before a block that halves the map, and the last of all."""
    return (*(index - 1 for index, stride in enumerate(strides) if index > 0 and stride == 2), len(strides) - 1)


def family(arch: str) -> Any:
    """The family file of an architecture: the letters it begins with (wrn_40_2 -> wrn), or all before a slash."""
    name = arch.split("/")[0] if "/" in arch else arch[: next((i for i, c in enumerate(arch) if not c.isalpha()), None)]
    return registry.find("pipeline.models", name, f"arch '{arch}'")


def title(spec: Spec) -> str:
    """What to call a network in a table: its architecture, and what a method added to it."""
    made_of = {"reused": " + reused head", "pruned": " pruned"}
    name: str = title(spec["body"]) + made_of[spec["arch"]] if "body" in spec else spec["arch"]
    return name + " + neck" if "neck" in spec else name


def spec_of(arch: str, num_classes: int, image_px: int) -> dict[str, Any]:
    """The spec of a network that is to see images of image_px x image_px.

    It holds "image_px" only where the network must be made for that size and is not by itself (a ViT): most networks
    take images of many sizes, and stay the same network. Raises ParamsError for an unknown one.
    """
    spec = {"arch": arch, "num_classes": num_classes}
    must_be_made_for = getattr(family(arch), "must_be_made_for", None)
    return spec | ({"image_px": image_px} if must_be_made_for and must_be_made_for(arch, image_px) else {})


def build(spec: Spec) -> Classifier:
    """A network with fresh weights. Raises ParamsError, with the sizes its family knows, for an unknown one.

    A spec with "neck": C gets a 1x1 convolution with bias, C -> C channels, as its neck.
    """
    network: Classifier = family(spec["arch"]).build(spec)
    if "neck" in spec:
        network.neck = nn.Conv2d(spec["neck"], spec["neck"], 1)
    return network


def build_to_train(spec: Spec, pretrained: bool, role: str) -> Classifier:
    """A network that training starts from: with fresh weights, or with pretrained ones below a fresh head.

    `role` is the section of params.yaml that asks for it. A trained network is rebuilt by `build`, never by this.

    Raises ParamsError where the network has no pretrained weights, CheckpointError where they cannot be had.
    """
    if not pretrained:
        return build(spec)
    check_pretrained(spec["arch"], role)
    network: Classifier = family(spec["arch"]).build_pretrained(spec)
    return network


def check_pretrained(arch: str, role: str) -> None:
    """Raises ParamsError where `arch` has no pretrained weights; does not look whether they can be had."""
    known = getattr(family(arch), "has_pretrained", None)
    if known is None or not known(arch):
        raise ParamsError(
            f"{role}.pretrained is true, but there are no pretrained weights of {arch}. Most networks of timm have "
            f"some: choose one, such as timm/resnet18, or set {role}.pretrained to false."
        )


def pretrained_normalization(arch: str) -> Normalization | None:
    """What the pretrained weights of `arch` need; None where its family knows none."""
    known = getattr(family(arch), "normalization", None)
    found: Normalization | None = known(arch) if known else None
    return found


@torch.no_grad()
def shapes(model: Classifier, image_px: int) -> Shapes:
    """Measure all taps with one blank pass of two images in eval mode; the model is left as it was found.

    Raises ParamsError where the model cannot take images of that size.
    """
    training = model.training
    model.eval()
    try:
        features = model.features(blank(model, 2, image_px))
    except RuntimeError as error:
        raise ParamsError(
            f"{model.spec['arch']} cannot take images of {image_px} x {image_px} px ({error}). Raise data.image_px, "
            "or student.image_px if that is set for this network, or choose another one."
        ) from error
    model.train(training)

    def size(tap: Tap) -> MapShape:
        channels, height, width = tap.raw.shape[1:]
        return MapShape(channels, height, width)

    return Shapes(
        stem=size(features.stem),
        blocks=tuple(map(size, features.blocks)),
        stages=tuple(map(size, features.stages)),
        pooled=features.pooled.shape[1],
        classes=features.logits.shape[1],
    )


def num_parameters(model: nn.Module) -> int:
    """Trainable numbers; running statistics of BN do not count, as in all published tables."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: Classifier, image_px: int) -> int:
    """Multiply-accumulates of one image, convolutions and matrix products alone (as torch's own counter counts)."""
    training = model.training
    model.eval()
    # torch's counter hooks the gradient of every layer's input, which a parameter has only where gradients are on.
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        model(blank(model, 1, image_px))
    model.train(training)
    return int(counter.get_total_flops()) // 2


def blank(model: nn.Module, batch: int, image_px: int) -> Tensor:
    """Zeros (batch, 3, image_px, image_px) that the model can take: of its device and type."""
    like = next(model.parameters())
    return torch.zeros(batch, 3, image_px, image_px, device=like.device, dtype=like.dtype)
