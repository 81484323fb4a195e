"""Reused: a small body, a projector to a large network's channels, and that network's classifier. What SimKD deploys.

    logits = fc(mean over H, W of ReLU(P(F)))
    P      = conv1x1(C -> C_t / f), BN, ReLU, conv3x3(C_t / f -> C_t / f), BN, ReLU, conv1x1(C_t / f -> C_t), BN

F     (B, C, H, W) the `raw` map of the body's last block; what the body has behind it is dropped.
fc    the head of a network with C_t channels.
spec  {"arch": "reused", "num_classes": K, "body": the body's own spec, "channels": C_t, "factor": f}; with "map_px":
      [h, w] too, F is averaged down to h x w first.

The taps are the body's, and the projector's output as one more block of the last stage: it is the map that feeds the
head. A network like this can therefore teach, learn, and be the body of another one.
"""

from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from pipeline.models import base
from pipeline.models.base import Classifier, Tap, title
from pipeline.system.errors import CheckpointError, ParamsError


def build(spec: base.Spec) -> "Reused":
    """Body, projector and head with fresh weights.

    Raises ParamsError for a spec that names no body, CheckpointError for one that does not say what is on top of it.
    """
    if "body" not in spec:
        raise ParamsError(
            "'reused' is not a network to train from the start: simkd puts it together, and its file says from what. "
            "Choose another network, such as resnet20 or wrn_16_2."
        )
    body = base.build(spec["body"])
    channels = body.map_channels
    body.drop_head()
    try:
        head = nn.Linear(spec["channels"], spec["num_classes"])
        return Reused(spec, body, projector(channels, spec["channels"], spec["factor"]), head)
    except (LookupError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"what was reused does not fit a {title(spec['body'])} ({type(error).__name__}: {error}). The file was "
            "made by another version of this network, or is damaged: train the student again."
        ) from error


def projector(channels_in: int, channels: int, factor: int) -> nn.Sequential:
    """P above, (B, C, H, W) -> (B, C_t, H, W). Its last ReLU is the network's, which taps the map before it."""
    inner = channels // factor
    convolutions = (
        nn.Conv2d(channels_in, inner, 1, bias=False),
        nn.Conv2d(inner, inner, 3, 1, 1, bias=False),
        nn.Conv2d(inner, channels, 1, bias=False),
    )
    layers: list[nn.Module] = []
    for conv in convolutions:
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        layers += [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


class Reused(base.Classifier):
    """Puts together what it is given; nothing is copied.

    Args:
        spec: as above.
        body: without its head.
        projector: as `projector` makes it.
        fc: the head.
    """

    neck_feeds_pooling = True

    def __init__(self, spec: base.Spec, body: Classifier, projector: nn.Sequential, fc: nn.Linear) -> None:
        super().__init__()
        self.spec = spec
        self.stage_ends = (*body.stage_ends[:-1], body.stage_ends[-1] + 1)
        self.has_block_taps = body.has_block_taps
        self.body = body
        self.projector = projector
        self.fc = fc

    def walk(self, images: Tensor) -> Iterator[Tap]:
        """The body's taps, then that of the projector; a neck comes behind its ReLU."""
        for tap in self.body.walk(images):
            yield tap
            last = tap.raw
        if "map_px" in self.spec:
            last = functional.adaptive_avg_pool2d(last, tuple(self.spec["map_px"]))
        pre = self.projector(last)
        act = self.neck(functional.relu(pre))
        yield Tap(act, pre, act)

    def stage_norms(self) -> list[nn.BatchNorm2d]:
        """The body's, but for the last stage, which ends in the projector."""
        return [*self.body.stage_norms()[:-1], cast(nn.BatchNorm2d, self.projector[-1])]
