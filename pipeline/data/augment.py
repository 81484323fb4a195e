"""Batched augmentation on the device: a random crop, a random mirror, and what makes a view strong (strong.py).

    padded     image_px x image_px pixels at a random place of the stored image, padded
    resized    a box of random area and shape at a random place of the stored image, scaled to image_px x image_px

What happens to an image is a function of (seed, epoch, position) alone, never of batch order, resume or process count:
each draw is a hash of those three counters. The same view can therefore be asked for again at any time.

Padding happens on pixels, before normalisation, so that zeros are black, as in the published recipes.

The box is Inception's (Szegedy et al., "Going Deeper with Convolutions", CVPR 2015), drawn as torchvision's
RandomResizedCrop draws it: ten tries for an area and a shape that fit, then the largest box of the shape nearest to a
square. It is scaled by bilinear interpolation between its own pixels, without the low-pass filter (antialias) that
torchvision applies by default: the filter only acts where a box is larger than image_px, and in storage of 256 for 224
no box is more than 1.14 times larger.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.data import strong
from pipeline.settings.data import Augment, Normalization

_MASK = (1 << 63) - 1
_TRIES = 10
_SECOND = 1 + strong.DRAWS
"""Number of the draw that a second view begins with, behind those of the first."""


class Views(NamedTuple):
    """What to do with each image of a batch or an epoch."""

    top: Tensor
    """(N,) int64, first row of the crop in the stored image, or in the padded one."""
    left: Tensor
    """(N,) int64, first column."""
    height: Tensor
    """(N,) int64, rows of the crop, before it is scaled."""
    width: Tensor
    """(N,) int64, columns."""
    flip: Tensor
    """(N,) bool, mirror left and right."""
    changes: Tensor
    """(N, 7) float32, what `strong.change` does then; (N, 0) for a weak view."""

    def of(self, chosen: slice) -> "Views":
        """Those of some of the images."""
        return Views(*(values[chosen] for values in self))


def looks(settings: Augment, views: int) -> list[tuple[Augment, int]]:
    """How each view of an image is augmented, and its number for `draw`.

    One view is as the settings say; of two, the first is weak and the second strong, whatever `settings.strong` says.
    """
    if views == 1:
        return [(settings, 0)]
    return [(settings.model_copy(update={"strong": number == 1}), number) for number in range(2)]


def draw(
    settings: Augment, stored_px: int, image_px: int, seed: int, epoch: int, positions: Tensor, number: int = 0
) -> Views:
    """The views of images at `positions` (N,) int64 of the training set in this epoch.

    stored_px, image_px: height and width of the stored images, and of what comes out.
    number: 0, or 1 for a second view of each, which is drawn independently.
    """
    counters = _hash(_hash(_hash(torch.zeros_like(positions) + seed) + epoch) + positions)
    if number:
        counters = _hash(counters + _SECOND)
    if settings.crop == "resized":
        height, width = _boxes(settings, stored_px, counters)
        room = stored_px
    else:
        height = width = torch.full_like(counters, image_px)
        room = stored_px + 2 * settings.crop_padding_px
    # Three independent ranges of bits of one 63-bit hash; some 2,200 places at most, so the bias is below 0.3 %.
    top, left = (counters & 0xFFFFF) % (room - height + 1), ((counters >> 20) & 0xFFFFF) % (room - width + 1)
    flip = ((counters >> 40) & 1).bool() if settings.flip else torch.zeros_like(counters, dtype=torch.bool)
    changes = torch.empty(len(counters), 0, device=counters.device)
    if settings.strong:
        numbers = torch.arange(1, 1 + strong.DRAWS, device=counters.device)
        # 24 bits, which float32 holds: a share that is rounded up to 1 would be out of its range.
        changes = strong.draw((_hash(counters.unsqueeze(1) + numbers) & 0xFFFFFF).float() / 2**24)
    return Views(top, left, height, width, flip, changes)


def apply(settings: Augment, image_px: int, pixels: Tensor, views: Views) -> Tensor:
    """Cut each view out of its image and change it: stored uint8 (B, H, W, 3) -> uint8 (B, image_px, image_px, 3)."""
    cut = _scaled(image_px, pixels, views) if settings.crop == "resized" else _padded(settings, image_px, pixels, views)
    return strong.change(cut, views.changes) if settings.strong else cut


def smaller(images: Tensor, seen_px: int) -> Tensor:
    """Images (B, C, H, H), float -> (B, C, seen_px, seen_px), by antialiased bilinear interpolation.

    It is what `arrays.smaller` does to pixels, but for the rounding. Images of that size come back as they are.
    """
    if images.shape[2] == seen_px:
        return images
    return functional.interpolate(images, (seen_px, seen_px), mode="bilinear", antialias=True)


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


class Normalizer:
    """uint8 (B, H, image_px, 3) -> normalised images (B, 3, H, image_px), in channels_last layout without a copy.

    It keeps its numbers on the device: made in every step, they would make host and device wait for each other.
    """

    def __init__(self, normalization: Normalization, image_px: int, device: torch.device) -> None:
        mean, std = (torch.tensor(x, device=device) for x in (normalization.mean, normalization.std))
        # Row by row: over an innermost axis of 3, torch's loops would start anew for every pixel.
        self._scale, self._shift = (1 / (255 * std)).repeat(image_px), (mean / std).repeat(image_px)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels on that device."""
        images = pixels.flatten(2).float().mul_(self._scale).sub_(self._shift)
        return images.view(pixels.shape).permute(0, 3, 1, 2)


def _boxes(settings: Augment, stored_px: int, counters: Tensor) -> tuple[Tensor, Tensor]:
    """Heights and widths (N,) int64 of boxes inside an image of stored_px x stored_px."""
    (least, greatest), (narrow, wide) = settings.crop_scale, settings.crop_ratio
    nearest = min(max(1.0, narrow), wide)
    height = torch.full_like(counters, max(1, round(stored_px / max(1.0, nearest))))
    width = torch.full_like(counters, max(1, round(stored_px * min(1.0, nearest))))
    missing = torch.ones_like(counters, dtype=torch.bool)
    for _ in range(_TRIES):
        counters = _hash(counters)
        area = stored_px**2 * (least + (greatest - least) * _share(counters))
        ratio = torch.exp(math.log(narrow) + math.log(wide / narrow) * _share(counters >> 31))
        tall, broad = ((area * shape).sqrt().round().long() for shape in (1 / ratio, ratio))
        fits = missing & (tall >= 1) & (tall <= stored_px) & (broad >= 1) & (broad <= stored_px)
        height, width = torch.where(fits, tall, height), torch.where(fits, broad, width)
        missing &= ~fits
    return height, width


def _padded(settings: Augment, image_px: int, pixels: Tensor, views: Views) -> Tensor:
    batch = len(pixels)
    index = torch.arange(image_px, device=pixels.device)
    rows = views.top.unsqueeze(1) + index
    columns = torch.where(views.flip.unsqueeze(1), image_px - 1 - index, index) + views.left.unsqueeze(1)
    padded = pad(pixels, settings.crop_padding_px, settings.pad_mode)
    image = torch.arange(batch, device=pixels.device).view(batch, 1, 1)
    return padded[image, rows.unsqueeze(2), columns.unsqueeze(1)]


def _scaled(image_px: int, pixels: Tensor, views: Views) -> Tensor:
    rows = _sources(views.top, views.height, image_px)
    columns = _sources(views.left, views.width, image_px)
    columns = torch.where(views.flip.unsqueeze(1), columns.flip(1), columns)
    grid = torch.empty(*rows.shape, image_px, 2, device=pixels.device)
    # From -1 to 1, the outer edges of the image's outer pixels.
    grid[..., 0] = ((2 * columns + 1) / pixels.shape[2] - 1).unsqueeze(1)
    grid[..., 1] = ((2 * rows + 1) / pixels.shape[1] - 1).unsqueeze(2)
    cut = functional.grid_sample(pixels.permute(0, 3, 1, 2).float(), grid, padding_mode="border", align_corners=False)
    return cut.add_(0.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _sources(first: Tensor, length: Tensor, image_px: int) -> Tensor:
    """(B, image_px) places in the image, counted in pixels from the middle of pixel 0, that fill the rows of a crop."""
    first, length = first.unsqueeze(1), length.unsqueeze(1)
    places = (torch.arange(image_px, device=first.device) + 0.5) * (length / image_px) - 0.5
    # Pixels beside the box, though they are there, are not looked at.
    return first + places.clamp(min=0).minimum(length - 1)


def _reflected(size: int, width: int, device: torch.device) -> Tensor:
    index = torch.arange(-width, size + width, device=device).abs()
    return torch.where(index >= size, 2 * (size - 1) - index, index)


def _share(bits: Tensor) -> Tensor:
    """The lowest 31 bits as float64 in [0, 1)."""
    return (bits & 0x7FFFFFFF).double() / 2**31


def _hash(x: Tensor) -> Tensor:
    # The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) on 63 bits: torch has no unsigned 64-bit shifts.
    x = (x + 0x1E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0x3F58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x14D049BB133111EB) & _MASK
    return x ^ (x >> 31)
