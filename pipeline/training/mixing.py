"""Mixup and CutMix: every training image shows a second one too, and its label is shared between the two.

    mixup   a * x + (1 - a) * x'                          a ~ Beta(mixup_alpha, mixup_alpha)
    cutmix  x, but x' in a box of area (1 - a) * H * W    a ~ Beta(cutmix_alpha, cutmix_alpha), then the share left of x

x' is an image of the training set, in the view that it has in this epoch; a is drawn for each image. With both, each
image is mixed by the one or the other with equal chance. Student and teacher see the same mixture: it replaces the
images of the batch, which the teacher is asked about.

What an image is mixed with, and how, is a function of (seed, epoch, position) alone, as its view is, never of its
batch, of resume or of the number of processes. timm and torchvision draw from the global generator, batch by batch.

Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018. Yun, Han, Oh, Chun, Choe, Yoo,
"CutMix", ICCV 2019. In distillation: Beyer, Zhai, Royer, Markeeva, Anil, Kolesnikov, "Knowledge distillation: A good
teacher is patient and consistent", CVPR 2022.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.data.augment import looks
from pipeline.data.feed import Feed
from pipeline.distillation.batch import Batch, Mixed
from pipeline.settings.data import Augment
from pipeline.settings.training import Train


class Draws(NamedTuple):
    """How images are mixed, (N,) of each."""

    partner: Tensor
    """int64, position of the second image; over the training set a permutation."""
    cut: Tensor
    """bool, by CutMix and not by mixup."""
    share: Tensor
    """float64 in [0, 1], a above: of the first image."""
    row: Tensor
    """float64 in [0, 1), centre of the box as a share of the height."""
    column: Tensor
    """float64 in [0, 1), and of the width."""


class Mixer:
    """Mixes the batches of one epoch; leaves them as they are where `settings` mix nothing.

    Args:
        feed: the training set.
        settings: mixup_alpha and cutmix_alpha.
        views: how second images are augmented.
        seed: of the training.
        epoch: from 0.
    """

    def __init__(self, feed: Feed, settings: Train, views: Augment, seed: int, epoch: int) -> None:
        self.feed, self.views, self.seed, self.epoch = feed, views, seed, epoch
        self.draws = None
        if settings.mixes:
            self.draws = Draws(*(d.to(feed.device) for d in draw(settings, seed, epoch, len(feed))))

    def __call__(self, batch: Batch) -> Batch:
        """The batch with mixed images, and with the second labels and the shares of the first."""
        if self.draws is None:
            return batch
        draws = Draws(*(d[batch.positions] for d in self.draws))
        weight = weights(draws, batch.images.shape[2], batch.images.shape[3])
        share = weight.mean((1, 2), dtype=torch.float64).float()
        firsts = [batch.images] if batch.strong is None else [batch.images, batch.strong]
        images, *strong = [
            torch.lerp(self._seen(draws.partner, *look), first, weight.unsqueeze(1))
            for first, look in zip(firsts, looks(self.views, len(firsts)), strict=True)
        ]
        mixed = Mixed(self.feed.labels[draws.partner], share)
        return replace(batch, images=images, strong=strong[0] if strong else None, mixed=mixed)

    def _seen(self, positions: Tensor, look: Augment, number: int) -> Tensor:
        """Second images, in the view of that number."""
        views = self.feed.views(look, self.seed, self.epoch, positions, number)
        return self.feed.seen(look, positions, views)


def draw(settings: Train, seed: int, epoch: int, images: int) -> Draws:
    """How each of `images` images is mixed in this epoch."""
    generator = np.random.default_rng((seed, epoch))
    partner = generator.permutation(images)
    both = bool(settings.mixup_alpha and settings.cutmix_alpha)
    cut = generator.random(images) < (0.5 if both else float(settings.cutmix_alpha > 0))
    alpha = np.where(cut, settings.cutmix_alpha, settings.mixup_alpha)
    share, (row, column) = generator.beta(alpha, alpha), generator.random((2, images))
    return Draws(*map(torch.from_numpy, (partner, cut, share, row, column)))


def weights(draws: Draws, height: int, width: int) -> Tensor:
    """Share of the first image in each pixel: (B, H, W) float32."""
    side = (1 - draws.share).sqrt()
    rows, columns = _span(draws.row, side, height), _span(draws.column, side, width)
    box = (rows.unsqueeze(2) & columns.unsqueeze(1)).float()
    return torch.where(draws.cut[:, None, None], 1 - box, draws.share[:, None, None].float())


def _span(centre: Tensor, side: Tensor, size: int) -> Tensor:
    """Which of `size` rows lie within the box: (B, size) bool; what sticks out over the edge is cut off."""
    middle, length = ((share * size).long().unsqueeze(1) for share in (centre, side))
    index = torch.arange(size, device=centre.device)
    return (index >= middle - length // 2) & (index < middle + (length + 1) // 2)
