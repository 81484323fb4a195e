"""From a prepared split to normalised batches on the device, in a repeatable order.

The pixels stay where they are (in their file, or in the accelerator's memory when they fit there); a batch is gathered,
augmented and normalised as one tensor, without worker processes.
"""

import math
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.data import augment, unlabelled
from pipeline.data.arrays import RowReader, Split, centre
from pipeline.data.card import DataCard
from pipeline.data.gathering import in_turn
from pipeline.devices import distributed
from pipeline.settings.data import Augment, Normalization

VIEWS_SEED = 0
"""Draws views that repeat: of every run alike, so that one cache serves students of all seeds."""
_MOVED_AT_ONCE = 2**26
"""Bytes."""
_APART = 2**31
"""Above every seed: images without labels come in an order that no training set has with any seed."""


class Feed:
    """Batches of one split on one device.

    Args:
        split: stored uint8 images (N, H, W, 3) and int64 labels (N,). Views for training are cut_px x cut_px, and what
            is evaluated is image_px x image_px: less, for a student that is taught by a network that sees more.
        normalization: applied to every image.
        device: where batches are wanted.
        num_views: K, of each training image: epochs e and e + K show the same one. None: every epoch has its own.
        unlabelled: of the images that stand beside those of this split in training, if any.
    """

    def __init__(
        self,
        split: Split,
        normalization: Normalization,
        device: torch.device,
        num_views: int | None = None,
        unlabelled: "Feed | None" = None,
    ) -> None:
        self.num_views = num_views
        self.unlabelled = unlabelled
        self.normalization = normalization
        self.device = device
        self.labels = torch.from_numpy(np.array(split.labels)).to(device)
        self._stored_px, self.cut_px, self.image_px = split.images.shape[1], split.cut_px, split.seen_px
        self._read = RowReader(split.images)
        self._resident = moved(self._read, len(split), device) if stays_on(device, split.images.nbytes) else None
        self._normalized = augment.Normalizer(normalization, self.cut_px, device)
        self._scaled = None
        if self.image_px != self.cut_px:
            # From the file and on the host, on every device: what is evaluated are the pixels that will be served.
            self._scaled = split.central_reader(), augment.Normalizer(normalization, self.image_px, device)

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, positions: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) of the stored images at `positions` (B,) int64."""
        if self._resident is not None:
            return self._resident[positions]
        return torch.from_numpy(self._read(positions.cpu().numpy())).to(self.device, non_blocking=True)

    def views(self, settings: Augment, seed: int, epoch: int, positions: Tensor, number: int = 0) -> augment.Views:
        """How the images at `positions` (B,) look in this epoch of a training with this seed; `number` as in `draw`."""
        drawn_from = (seed, epoch) if self.num_views is None else (VIEWS_SEED, epoch % self.num_views)
        return augment.draw(settings, self._stored_px, self.cut_px, *drawn_from, positions, number)

    def seen(self, settings: Augment, positions: Tensor, views: augment.Views) -> Tensor:
        """Normalised images (B, 3, cut_px, cut_px) of the images at `positions` (B,), as `views` show them."""
        return self._normalized(augment.apply(settings, self.cut_px, self.pixels(positions), views))

    def train_batches(
        self,
        settings: Augment,
        seed: int,
        epoch: int,
        batch_size: int,
        drop_last: bool,
        first: int = 0,
        fewest: int = 1,
        views: int = 1,
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(images, labels, positions) of one epoch: a permutation drawn from (seed, epoch), each image augmented.

        From batch number `first` on: the later part of an epoch is the same without the earlier one. Where several
        processes train, each gets its part of every batch. `fewest` is as in `batch_ends`. With two `views`, strong
        views (see `augment.looks`) of all images of a batch stand behind the weak ones: (2 * B, 3, cut_px, cut_px).
        """
        ends = [0, *batch_ends(len(self), batch_size, drop_last, fewest)]
        for images, positions in self._passes(settings, seed, epoch * len(self), ends, first, views):
            yield images, self.labels[positions], positions

    def unlabelled_batches(
        self, settings: Augment, seed: int, epoch: int, ends: list[int], first: int = 0, views: int = 1
    ) -> Iterator[Tensor]:
        """Images (views * B, 3, cut_px, cut_px) of one epoch of another feed, which stand beside its batches.

        They come in passes over this split that go on from one epoch to the next, so that every image is shown as often
        as every other; a pass draws order and views by its number, as `train_batches` does by that of the epoch.
        `ends`, which begins with 0, tells where the images of each batch end.
        """
        for images, _ in self._passes(settings, seed + _APART, epoch * ends[-1], ends, first, views):
            yield images

    def _passes(
        self, settings: Augment, seed: int, start: int, ends: list[int], first: int, views: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(images, positions) of batches that end at `ends`, counted from image number `start` of all passes on."""
        num, orders = len(self), dict[int, Tensor]()
        # One at least, though it may show nothing.
        for number in range(start // num, max(start // num + 1, -(-(start + ends[-1]) // num))):
            generator = torch.Generator().manual_seed(_mix(seed, number))
            begins = number * num
            wanted = slice(max(0, start - begins), min(num, start + ends[-1] - begins))
            orders[number] = torch.randperm(num, generator=generator)[wanted]
        looks = [(look, self._drawn(look, seed, orders, view)) for look, view in augment.looks(settings, views)]
        on_host = torch.cat(list(orders.values()))
        order = on_host.to(self.device)
        parts = [distributed.own(begin, end) for begin, end in islice(pairwise(ends), first, None)]
        if self._resident is None and gathers_ahead(self.device):
            gathered = in_turn(self._read, [on_host[part] for part in parts], self.device)
        else:
            gathered = (self.pixels(order[part]) for part in parts)
        for part, pixels in zip(parts, gathered, strict=True):
            cut = [augment.apply(look, self.cut_px, pixels, drawn.of(part)) for look, drawn in looks]
            yield self._normalized(cut[0] if views == 1 else torch.cat(cut)), order[part]

    def _drawn(self, settings: Augment, seed: int, orders: dict[int, Tensor], number: int) -> augment.Views:
        """Views of the images of whole passes, or of what is wanted of them, by the numbers of the passes."""
        of_each = [self.views(settings, seed, at, order.to(self.device), number) for at, order in orders.items()]
        return augment.Views(*map(torch.cat, zip(*of_each, strict=True)))

    def view_batches(self, settings: Augment, view: int, batch_size: int, first: int = 0) -> Iterator[Tensor]:
        """Images of the whole split in order, from position `first` on, as view number `view` in [0, K) shows them."""
        for start in range(first, len(self), batch_size):
            positions = torch.arange(start, min(start + batch_size, len(self)), device=self.device)
            views = augment.draw(settings, self._stored_px, self.cut_px, VIEWS_SEED, view, positions)
            yield self.seen(settings, positions, views)

    def eval_batches(self, batch_size: int, first: int = 0, stop: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """(images, labels) of the images from `first` to `stop` (all, by default) in order: their middle."""
        end = len(self) if stop is None else stop
        for start in range(first, end, batch_size):
            positions = torch.arange(start, min(start + batch_size, end), device=self.device)
            yield self.images(positions), self.labels[positions]

    def images(self, positions: Tensor) -> Tensor:
        """Normalised middles (B, 3, image_px, image_px) of the images at `positions` (B,) int64."""
        if self._scaled is None:
            return self.middles(positions)
        read, normalized = self._scaled
        return normalized(torch.from_numpy(read(positions.cpu().numpy())).to(self.device, non_blocking=True))

    def middles(self, positions: Tensor) -> Tensor:
        """The same before they are made smaller, if they are: (B, 3, cut_px, cut_px)."""
        middle = centre(self._stored_px, self.cut_px)
        return self._normalized(self.pixels(positions)[:, middle, middle])


def training_feeds(
    folder: Path,
    card: DataCard,
    normalization: Normalization,
    device: torch.device,
    num_views: int | None,
    more: bool,
    seen_px: int | None,
) -> tuple[Feed, Feed]:
    """Of train and val of a prepared data set; `more`: with its images without labels beside those of train.

    `seen_px` is as in `Split.load`.
    """
    others = Feed(unlabelled.load(folder, card)[0], normalization, device, num_views) if more else None
    train, val = (Split.load(folder, name, card, seen_px) for name in ("train", "val"))
    return Feed(train, normalization, device, num_views, others), Feed(val, normalization, device, num_views)


def stays_on(device: torch.device, num_bytes: int) -> bool:
    """Whether what is read again and again moves to the device once: an accelerator, for a quarter of what is free."""
    return device.type == "cuda" and num_bytes <= torch.cuda.mem_get_info(device)[0] // 4


def moved(read: RowReader[Any], rows: int, device: torch.device) -> Tensor:
    """All rows of an array on the device; the host, where each process has its own, holds a small part at a time."""
    part = read(np.arange(0))
    whole = torch.empty((rows, *part.shape[1:]), dtype=torch.from_numpy(part).dtype, device=device)
    step = max(1, _MOVED_AT_ONCE // (part.dtype.itemsize * math.prod(part.shape[1:])))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        whole[start:stop] = torch.from_numpy(read(np.arange(start, stop)))
    return whole


def gathers_ahead(device: torch.device) -> bool:
    """Whether a thread gathers the next batch: beside a GPU, where this one needs the processor for nothing else."""
    return device.type == "cuda"


def batch_ends(images: int, batch_size: int, drop_last: bool, fewest: int = 1) -> list[int]:
    """Where each batch of an epoch ends. A last one of less than `fewest` images goes with the batch before it."""
    ends = list(range(batch_size, images + 1, batch_size))
    rest = images % batch_size
    if rest and not drop_last:
        ends = [*(ends[:-1] if rest < fewest else ends), images]
    return ends


def ends_beside(ends: list[int], batch_size: int, unlabelled: int) -> list[int]:
    """Where the images without labels end that stand beside each batch: `unlabelled` of them for every `batch_size`."""
    return [end * unlabelled // batch_size for end in ends]


def num_batches(images: int, batch_size: int, drop_last: bool, fewest: int = 1) -> int:
    """Steps of one epoch."""
    return len(batch_ends(images, batch_size, drop_last, fewest))


def _mix(seed: int, epoch: int) -> int:
    # Neighbouring (seed, epoch) must not share a stream: seed 0 epoch 1 is not seed 1 epoch 0.
    return seed * 1_000_003 + epoch
