"""The learning rate and the momentum of each step, from the settings and the step's number alone.

    milestones  lr * decay^(drops passed), epoch by epoch
    cosine      lr * (1 + cos(pi * t / T)) / 2                          Loshchilov, Hutter, "SGDR", ICLR 2017
    one_cycle   from lr / 25 to lr in the first 30 % of the steps, then to lr / 25 / 10^4, both along a half cosine;
                momentum the other way round, from `momentum` to `base_momentum` and back
                Smith, Topin, "Super-Convergence", arXiv:1708.07120
    warm-up     lr * (t + 1) / (W + 1) in the first W steps; cosine then counts t and T without them

t the step from 0, T the steps of the whole training. These are the values of torch's CosineAnnealingLR, OneCycleLR and
LinearLR, one step after each batch. Those carry their own state from step to step; a function of t has none, so that a
run taken up in the middle of an epoch goes on with the same bits.
"""

import math
from typing import NamedTuple

from pipeline.settings.training import Train

# The defaults of torch's OneCycleLR.
_RISE_SHARE = 0.3
_START_DIVISOR = 25
_END_DIVISOR = 1e4


class Rates(NamedTuple):
    """What the optimiser is set to before a step."""

    lr: float
    momentum: float


class Schedule:
    """The rates of a training of `settings.epochs` epochs of `steps_per_epoch` steps."""

    def __init__(self, settings: Train, steps_per_epoch: int) -> None:
        self.settings = settings
        self.steps_per_epoch = steps_per_epoch
        self.drops = milestone_epochs(settings) if settings.schedule == "milestones" else []
        """Epochs, counted from 0, before which the rate drops."""

    def rates(self, epoch: int, step: int) -> Rates:
        """Before step `step` of epoch `epoch`, both counted from 0."""
        s, steps = self.settings, self.steps_per_epoch
        now, warm, whole = epoch * steps + step, s.warmup_epochs * steps, s.epochs * steps
        if s.schedule == "one_cycle":
            return _one_cycle(s, now, whole)
        lr = s.lr
        if s.schedule == "milestones":
            lr *= s.decay ** sum(drop <= epoch for drop in self.drops)
        elif now >= warm:
            lr = _glide(s.lr, 0.0, (now - warm) / (whole - warm))
        if now < warm:
            lr *= (now + 1) / (warm + 1)
        return Rates(lr, s.momentum)


def _one_cycle(s: Train, now: int, whole: int) -> Rates:
    lowest = s.lr / _START_DIVISOR
    base = s.momentum if s.base_momentum is None else s.base_momentum
    # As torch counts: each phase ends with a step that has its last value.
    peak, end = _RISE_SHARE * whole - 1, whole - 1
    if now <= peak:
        return Rates(_glide(lowest, s.lr, now / peak), _glide(s.momentum, base, now / peak))
    done = (now - peak) / (end - peak)
    return Rates(_glide(s.lr, lowest / _END_DIVISOR, done), _glide(base, s.momentum, done))


def _glide(start: float, end: float, share: float) -> float:
    """Half a cosine from `start` to `end`; `share` of the way in [0, 1]."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def milestone_epochs(settings: Train) -> list[int]:
    """After how many epochs the learning rate drops; fractions are resolved."""
    return [round(m * settings.epochs) if m < 1 else round(m) for m in settings.milestones]


def never_reached(settings: Train) -> list[float]:
    """Milestones, as written, that lie behind the last epoch."""
    if settings.schedule != "milestones":
        return []
    drops = zip(settings.milestones, milestone_epochs(settings), strict=True)
    return [milestone for milestone, drop in drops if drop >= settings.epochs]
