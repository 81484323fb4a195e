"""Batched augmentation on the device: random crop out of a padded image, and a random mirror.

What happens to an image is a function of (seed, epoch, position) alone, never of batch order, resume or process count:
each draw is a hash of those three counters. The same view can therefore be asked for again at any time.

Padding happens on pixels, before normalisation, so that zeros are black, as in the published recipes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.params import Augment, Normalization

_MASK = (1 << 63) - 1


class Views(NamedTuple):
    """What to do with each image of a batch or an epoch."""

    top: Tensor
    """(N,) int64, first row of the crop in the padded image, in [0, 2 * padding]."""
    left: Tensor
    """(N,) int64, first column."""
    flip: Tensor
    """(N,) bool, mirror left and right."""


def draw(settings: Augment, seed: int, epoch: int, positions: Tensor) -> Views:
    """The views of images at `positions` (N,) int64 of the training set in this epoch."""
    counters = _hash(_hash(_hash(torch.zeros_like(positions) + seed) + epoch) + positions)
    span = 2 * settings.crop_padding_px + 1
    # Three independent ranges of bits of one 63-bit hash; span is at most 129, so the bias is below 2^-12.
    top, left = (counters & 0xFFFFF) % span, ((counters >> 20) & 0xFFFFF) % span
    flip = ((counters >> 40) & 1).bool() if settings.flip else torch.zeros_like(counters, dtype=torch.bool)
    return Views(top, left, flip)


def apply(settings: Augment, pixels: Tensor, views: Views) -> Tensor:
    """Cut each view out of its image: uint8 (B, H, W, 3) -> uint8 (B, H, W, 3)."""
    batch, height, width, _ = pixels.shape
    rows = views.top.unsqueeze(1) + torch.arange(height, device=pixels.device)
    columns = torch.arange(width, device=pixels.device).expand(batch, width)
    columns = torch.where(views.flip.unsqueeze(1), width - 1 - columns, columns) + views.left.unsqueeze(1)
    padded = pad(pixels, settings.crop_padding_px, settings.pad_mode)
    image = torch.arange(batch, device=pixels.device).view(batch, 1, 1)
    return padded[image, rows.unsqueeze(2), columns.unsqueeze(1)]


def pad(pixels: Tensor, width: int, mode: str) -> Tensor:
    """uint8 (B, H, W, 3) with `width` more pixels on each side, black or mirrored about the edge pixel."""
    if width == 0:
        return pixels
    batch, height, length, channels = pixels.shape
    if mode == "reflect":
        rows, columns = (_reflected(size, width, pixels.device) for size in (height, length))
        return pixels[:, rows][:, :, columns]
    padded = pixels.new_zeros(batch, height + 2 * width, length + 2 * width, channels)
    padded[:, width:-width, width:-width] = pixels
    return padded


def normalize(pixels: Tensor, normalization: Normalization, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 (B, H, W, 3) -> normalised images (B, 3, H, W), in channels_last layout without a copy."""
    mean, std = (torch.tensor(x, device=pixels.device, dtype=dtype) for x in (normalization.mean, normalization.std))
    images = (pixels.to(dtype) * (1 / (255 * std))).sub_(mean / std)
    return images.permute(0, 3, 1, 2)


def _reflected(size: int, width: int, device: torch.device) -> Tensor:
    index = torch.arange(-width, size + width, device=device).abs()
    return torch.where(index >= size, 2 * (size - 1) - index, index)


def _hash(x: Tensor) -> Tensor:
    # The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) on 63 bits: torch has no unsigned 64-bit shifts.
    x = (x + 0x1E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0x3F58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x14D049BB133111EB) & _MASK
    return x ^ (x >> 31)
