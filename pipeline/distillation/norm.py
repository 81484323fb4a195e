"""NORM: widen the student's last map to N copies of the teacher's, linearly, so that nothing of it need be shipped.

    E   = BN(conv1x1(F_s))            (B, N * C_t, H, W)
    F'  = BN(conv1x1(E)) + F_s        (B, C_s, H, W), takes the place of F_s in the student
    z~  = 2.5 * (z - mean_k z) / sqrt(var_k z + 1e-7)
    L   = ce_weight * CE(y, z~_s) + kl_weight * KL_T(z~_s, z~_t)
          + norm_weight * ramp(progress) * N * mean over n, B, C_t, H, W of (E_n - F_t)^2

F_s, F_t  last `raw` map of student and teacher: post-ReLU in a ResNet, the residual sum in a WRN.
E_n       the n-th of the N = `num_repeats` groups of C_t channels of E. A larger F_t is max-pooled to the size of E; a
          larger E is averaged to that of F_t.
z_s, z_t  (B, K) logits; z~ standardised over the classes, for the losses alone. Two of them can
          only change their signs, and have no gradient: three classes are needed.
ramp      0.1 in the first 10/240 of training, 0.5 up to 20/240, 1 up to 180/240, 0.5 up to 210/240, then 0.1.
Trained beside the student: both convolutions, without bias, and their BNs. In eval mode F' = M F_s + c at each place.
Where only the average and `fc` follow (ResNet), fc(mean F') = W (M mean F_s + c) + b, so the head absorbs them and the
student ships with exactly its own parameters; elsewhere (WRN: BN and ReLU follow) one 1x1 convolution with bias ships.

Liu, Li, Li, Yao, "NORM: Knowledge Distillation via N-to-One Representation Matching", ICLR 2023, arXiv:2305.13803.
This is the residual form, with the standardised logits and the ramp of its code. The source searches ce_weight for
each pair in {0.0625, 0.125, 0.25, 0.5}; the default is the 0.1 of its README's example. NORM+KD is a kl_weight above
0. There are four differences. The source states the ramp for 240 epochs, and here it follows the share of training
that is done. A larger E is max-pooled by the source's ImageNet code (its CIFAR code has no rule for it). The
released code never folds the branch. It also standardises the logits at test time, while here the network's own logits
are deployed. The argmax is the same, but training does not fix their scale, so their probabilities are not those of the
loss. Calibrate them (one temperature) before you read them as confidence.
"""

import copy
from dataclasses import replace
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.card import DataCard
from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch
from pipeline.models.base import Classifier, Features, shapes
from pipeline.system.errors import ParamsError

_RAMP = ((10 / 240, 0.1), (20 / 240, 0.5), (180 / 240, 1.0), (210 / 240, 0.5))
_LOGIT_STD = 2.5


class Config(base.Config):
    """Settings of the official example."""

    ce_weight: Weight = 0.1
    norm_weight: Weight = 1.0
    """Weight of the distance between the widened map and the repeated teacher map, before the ramp."""
    num_repeats: Annotated[int, Field(ge=1)] = 8
    """N, the number of times that the teacher's map is repeated."""


class Method(base.Method):
    """The widened map against N copies of the teacher's."""

    fewest_classes = 3

    def __init__(self, config: Config, student: Classifier, teacher: base.Teacher | None, card: DataCard) -> None:
        super().__init__(config, student, teacher, card)
        s, t = (sizes.stages[-1] for sizes in self.shapes(card))
        transform = Transform(s.channels, config.num_repeats * t.channels)
        self.student.neck = nn.Sequential(self.student.neck, transform)
        shapes(self.student, card.image_px)
        if transform.expanded is None:
            raise ParamsError(
                f"norm needs a student that runs a neck, but {student.spec['arch']} runs none. Choose another student."
            )
        transform.expanded = None

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "norm", and "ce" and "kl" of standardised logits where they have a weight."""
        transform = self._transform()
        assert transform.expanded is not None, "the student's pass left its expanded map"
        distance = repeated_distance(transform.expanded.float(), t.stages[-1].raw.float(), self.config.num_repeats)
        transform.expanded = None
        s, t = (replace(f, logits=standardize(f.logits)) for f in (s, t))
        return super().terms(s, t, batch) | {"norm": self.config.norm_weight * ramp(batch.progress) * distance}

    @torch.no_grad()
    def deployed(self) -> Classifier:
        """A copy of the student, its neck folded: fc(M x + c) = (W M) x + (W c + b), or one convolution M x + c."""
        student = self.student
        self._transform().expanded = None
        m, c = affine(student.neck, self._transform().channels)
        # The memo puts nothing in the place of the neck.
        network = copy.deepcopy(student, {id(student.neck): nn.Identity()})
        network.spec = {key: value for key, value in student.spec.items() if key != "neck"}
        if student.neck_feeds_pooling:
            weight, bias = student.fc.weight.double(), student.fc.bias.double()
            network.fc.weight.copy_(weight @ m)
            network.fc.bias.copy_(weight @ c + bias)
        else:
            # Not initialised: that would draw from the generator that training draws from.
            conv: nn.Conv2d = nn.utils.skip_init(nn.Conv2d, len(c), len(c), 1)  # type: ignore[no-untyped-call]
            conv.to(student.fc.weight)
            conv.weight.copy_(m[:, :, None, None])
            cast(Tensor, conv.bias).copy_(c)
            network.neck = conv
            network.spec["neck"] = len(c)
        return network

    def _transform(self) -> "Transform":
        return cast(Transform, cast(nn.Sequential, self.student.neck)[-1])


class Transform(nn.Module):
    """BN(conv1x1(E)) + F_s with E = BN(conv1x1(F_s)): maps (B, C_s, H, W) -> the same size, affine in eval mode."""

    def __init__(self, channels: int, expanded_channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.expand = _linear(channels, expanded_channels)
        self.reduce = _linear(expanded_channels, channels)
        self.expanded: Tensor | None = None
        """E of the last pass, until the loss has taken it."""

    def forward(self, maps: Tensor) -> Tensor:
        """Keeps E: the loss needs it, and a second pass would update the BN's statistics twice."""
        self.expanded = self.expand(maps)
        out: Tensor = self.reduce(self.expanded) + maps
        return out


def repeated_distance(expanded: Tensor, target: Tensor, num_repeats: int) -> Tensor:
    """N * mean (E_n - F_t)^2 of maps (B, N * C, H, W) and (B, C, H', W'); a scalar."""
    size = (min(expanded.shape[2], target.shape[2]), min(expanded.shape[3], target.shape[3]))
    if target.shape[2:] != size:
        target = functional.adaptive_max_pool2d(target, size)
    if expanded.shape[2:] != size:
        expanded = functional.adaptive_avg_pool2d(expanded, size)
    groups = expanded.view(len(expanded), num_repeats, -1, *size)
    return num_repeats * functional.mse_loss(groups, target.unsqueeze(1).expand_as(groups))


def standardize(logits: Tensor) -> Tensor:
    """Logits (B, K) with mean 0 and standard deviation 2.5 over the classes."""
    return _LOGIT_STD * functional.layer_norm(logits, logits.shape[1:], eps=1e-7)


def ramp(progress: float) -> float:
    """Weight of the distance at a share of training in [0, 1)."""
    return next((weight for end, weight in _RAMP if progress < end), 0.1)


@torch.no_grad()
def affine(neck: nn.Module, channels: int) -> tuple[Tensor, Tensor]:
    """M (C, C) and c (C), float64, with neck(x) = M x + c at each place in eval mode: its values at 0 and unit vectors.

    Works on a copy, so that the neck's mode and statistics stay as they are.
    """
    device = next(neck.parameters()).device
    points = torch.eye(channels + 1, channels, dtype=torch.float64, device=device)  # the last row is 0
    values = copy.deepcopy(neck).double().eval()(points[:, :, None, None]).flatten(1)
    return (values[:-1] - values[-1]).T, values[-1]


def _linear(channels_in: int, channels_out: int) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels_out, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out))
