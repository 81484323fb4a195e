"""Batches and augmentation: repeatable, fair, and equal to the textbook operations."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.data import augment, feed
from pipeline.data.arrays import RowReader
from pipeline.data.feed import Feed
from pipeline.settings.data import Augment, Normalization
from tests import tiny

PADDED = Augment(crop_padding_px=4)


def test_a_view_depends_on_seed_epoch_and_position_alone() -> None:
    positions = torch.tensor([5, 0, 17])
    together = augment.draw(PADDED, 32, 32, 1, 2, positions)
    for i, position in enumerate(positions):
        alone = augment.draw(PADDED, 32, 32, 1, 2, position.view(1))
        assert [x[i].tolist() for x in together] == [x[0].tolist() for x in alone]
    for seed, epoch in ((1, 3), (2, 2), (2, 1)):
        many = torch.arange(1000)
        other, same = augment.draw(PADDED, 32, 32, seed, epoch, many), augment.draw(PADDED, 32, 32, 1, 2, many)
        assert (other.top == same.top).float().mean() < 0.2


def test_offsets_and_flips_are_uniform_and_independent() -> None:
    views = augment.draw(PADDED, 32, 32, 0, 0, torch.arange(90_000))
    cells = torch.bincount((views.top * 9 + views.left) * 2 + views.flip.long(), minlength=162)
    expected = 90_000 / 162
    # Chi-squared with 161 degrees of freedom: above 240 once in 20,000 fair draws, and the draw is fixed.
    assert ((cells - expected) ** 2 / expected).sum() < 240


def test_crop_and_flip_equal_pad_slice_and_mirror() -> None:
    pixels = torch.from_numpy(tiny.split(6).images)
    px = tiny.IMAGE_PX
    views = augment.draw(PADDED, px, px, 3, 1, torch.arange(6))
    came = augment.apply(PADDED, px, pixels, views)
    for i in range(6):
        padded = functional.pad(pixels[i].permute(2, 0, 1), (4, 4, 4, 4)).permute(1, 2, 0)
        cut = padded[views.top[i] : views.top[i] + px, views.left[i] : views.left[i] + px]
        assert torch.equal(came[i], cut.flip(1) if views.flip[i] else cut)


def test_reflection_equals_torch_reflect_padding() -> None:
    pixels = torch.from_numpy(tiny.split(2).images)
    expected = functional.pad(pixels.permute(0, 3, 1, 2).float(), (4, 4, 4, 4), mode="reflect")
    assert torch.equal(augment.pad(pixels, 4, "reflect"), expected.permute(0, 2, 3, 1).byte())


def test_without_padding_and_flip_pixels_stay() -> None:
    off = Augment(crop_padding_px=0, flip=False)
    pixels = torch.from_numpy(tiny.split(3).images)
    px = tiny.IMAGE_PX
    assert torch.equal(augment.apply(off, px, pixels, augment.draw(off, px, px, 0, 0, torch.arange(3))), pixels)


def test_normalised_images_have_the_stated_statistics() -> None:
    pixels = torch.from_numpy(tiny.split(64).images)
    scaled = pixels.double().div(255).flatten(0, 2)
    n = Normalization(mean=tuple(scaled.mean(0).tolist()), std=tuple(scaled.std(0, correction=0).tolist()))
    images = tiny.normalized(pixels, n)
    assert images.shape == (64, 3, tiny.IMAGE_PX, tiny.IMAGE_PX)
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_an_epoch_visits_every_image_once_in_a_new_order() -> None:
    feed = tiny.feed(50)
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        batches = list(feed.train_batches(PADDED, seed, epoch, 16, drop_last=False))
        order = torch.cat([positions for _, _, positions in batches])
        assert torch.equal(order.sort().values, torch.arange(50))
        assert torch.equal(torch.cat([labels for _, labels, _ in batches]), feed.labels[order])
        orders.append(order.tolist())
    assert len({tuple(order) for order in orders}) == 3


def seen(num_views: int | None, seed: int, epoch: int) -> torch.Tensor:
    """The images of an epoch, sorted by position."""
    feed = Feed(tiny.split(50), tiny.NORMALIZATION, tiny.CPU, num_views)
    batches = list(feed.train_batches(PADDED, seed, epoch, 16, drop_last=False))
    order = torch.cat([positions for _, _, positions in batches])
    return torch.cat([images for images, _, _ in batches])[order.argsort()]


def test_views_repeat_after_k_epochs_for_every_seed_and_the_order_does_not() -> None:
    views = [seen(3, seed=0, epoch=epoch) for epoch in range(3)]
    assert not torch.equal(views[0], views[1])
    for seed, epoch in ((0, 3), (0, 7), (5, 0), (5, 4)):
        assert torch.equal(seen(3, seed, epoch), views[epoch % 3])
    feed = Feed(tiny.split(50), tiny.NORMALIZATION, tiny.CPU, 3)
    for view in range(3):
        assert torch.equal(torch.cat(list(feed.view_batches(PADDED, view, 16))), views[view])
        assert torch.equal(torch.cat(list(feed.view_batches(PADDED, view, 16, first=32))), views[view][32:])
    orders = {
        tuple(torch.cat([p for _, _, p in feed.train_batches(PADDED, seed, epoch, 16, False)]).tolist())
        for seed in (0, 1)
        for epoch in (0, 3)
    }
    assert len(orders) == 4


def test_views_are_those_of_the_first_epochs_of_seed_0() -> None:
    assert torch.equal(seen(4, seed=0, epoch=3), seen(None, seed=0, epoch=3))
    assert torch.equal(seen(4, seed=9, epoch=3), seen(None, seed=0, epoch=3))
    assert not torch.equal(seen(None, seed=9, epoch=3), seen(None, seed=0, epoch=3))


def test_evaluation_sees_every_image_unaugmented_in_order() -> None:
    feed = tiny.feed(50)
    batches = list(feed.eval_batches(16))
    expected = tiny.normalized(torch.from_numpy(tiny.split(50).images))
    assert torch.equal(torch.cat([images for images, _ in batches]), expected)


def test_images_move_to_a_device_in_parts_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    images = tiny.split(10).images
    monkeypatch.setattr(feed, "_MOVED_AT_ONCE", 3 * images[0].nbytes)
    assert np.array_equal(feed.moved(RowReader(images), 10, tiny.CPU).numpy(), images)
    monkeypatch.setattr(feed, "stays_on", lambda device, num_bytes: True)
    batches = [Feed(tiny.split(10), tiny.NORMALIZATION, tiny.CPU).images(torch.arange(10))]
    monkeypatch.setattr(feed, "stays_on", lambda device, num_bytes: False)
    batches.append(Feed(tiny.split(10), tiny.NORMALIZATION, tiny.CPU).images(torch.arange(10)))
    assert torch.equal(*batches)
