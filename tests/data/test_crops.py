"""Crops out of images that are stored larger than networks see them: as torchvision makes them, one by one."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import stats  # type: ignore[import-untyped]  # ships no types
from torchvision.transforms import RandomResizedCrop  # type: ignore[import-untyped]
from torchvision.transforms import functional as reference

from pipeline.data import augment
from pipeline.data.arrays import Split
from pipeline.data.feed import Feed
from pipeline.deployment import gate
from pipeline.settings.data import Augment, Data
from pipeline.settings.params import Params
from tests import tiny, tiny_onnx

STORED, SEEN = 40, 32
RESIZED = Augment(crop="resized")


def split(stored_px: int = STORED, images: int = 12, image_px: int | None = SEEN) -> Split:
    whole = tiny.split(images, stored_px)
    return Split(whole.images, whole.labels, image_px)


def feed(images: int = 12, num_views: int | None = None) -> Feed:
    return Feed(split(images=images), tiny.NORMALIZATION, tiny.CPU, num_views)


def one_by_one(pixels: torch.Tensor, views: augment.Views) -> Iterator[torch.Tensor]:
    """torchvision's resized crops, mirrored, (SEEN, SEEN, 3) each."""
    for image, *box, flip, _ in zip(pixels, *(values.tolist() for values in views), strict=True):
        cut = reference.resized_crop(image.permute(2, 0, 1), *box, [SEEN, SEEN], antialias=False)
        yield (reference.hflip(cut) if flip else cut).permute(1, 2, 0)


def test_a_resized_crop_is_torchvisions_within_a_level() -> None:
    pixels = torch.from_numpy(split().images)
    views = augment.draw(RESIZED, STORED, SEEN, 0, 0, torch.arange(12))
    assert 0 < views.flip.sum() < 12
    assert views.height.min() < SEEN < views.width.max()  # both enlarged and reduced
    came = augment.apply(RESIZED, SEEN, pixels, views)
    difference = came.int() - torch.stack(list(one_by_one(pixels, views))).int()
    assert came.dtype is torch.uint8
    assert difference.abs().max() <= 1
    assert abs(difference.float().mean()) < 0.01


def test_a_box_that_is_the_whole_image_and_needs_no_scaling_changes_nothing() -> None:
    whole = Augment(crop="resized", crop_scale=(1, 1), crop_ratio=(1, 1), flip=False)
    pixels = torch.from_numpy(split().images)
    views = augment.draw(whole, STORED, STORED, 0, 0, torch.arange(12))
    assert torch.equal(augment.apply(whole, STORED, pixels, views), pixels)


@pytest.mark.parametrize(("scale", "ratio"), [((0.08, 1.0), (3 / 4, 4 / 3)), ((0.5, 1.0), (1.2, 2.0))])
def test_boxes_are_spread_as_torchvisions(scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    settings = Augment(crop="resized", crop_scale=scale, crop_ratio=ratio)
    views = augment.draw(settings, 256, 224, 0, 0, torch.arange(3000))
    torch.manual_seed(0)
    blank = torch.empty(3, 256, 256)
    expected = np.array([RandomResizedCrop.get_params(blank, list(scale), list(ratio)) for _ in range(3000)])
    came = np.stack([views.top, views.left, views.height, views.width], 1)
    assert (came[:, :2] >= 0).all()
    assert (came[:, :2] + came[:, 2:] <= 256).all()
    for column in range(4):
        assert stats.ks_2samp(came[:, column], expected[:, column]).pvalue > 0.001
    drawn = np.corrcoef(np.column_stack([came, views.flip]).T)
    # Height and width share an area, and bound the place; the mirror hangs on nothing.
    assert np.abs(drawn[4, :4]).max() < 0.08


@pytest.mark.parametrize("ratio", [(2.0, 3.0), (0.25, 0.4)])
def test_where_no_box_fits_it_is_the_largest_of_the_squarest_shape(ratio: tuple[float, float]) -> None:
    settings = Augment(crop="resized", crop_scale=(1, 1), crop_ratio=ratio)
    views = augment.draw(settings, 256, 224, 0, 0, torch.arange(50))
    _, _, height, width = RandomResizedCrop.get_params(torch.empty(3, 256, 256), [1, 1], list(ratio))
    assert (set(views.height.tolist()), set(views.width.tolist())) == ({height}, {width})


def test_a_padded_crop_comes_from_anywhere_in_the_stored_image() -> None:
    settings = Augment(crop_padding_px=2)
    pixels = torch.from_numpy(split(images=2).images)
    views = augment.draw(settings, STORED, SEEN, 0, 0, torch.arange(2000))
    assert set(views.top.tolist()) == set(views.left.tolist()) == set(range(STORED + 4 - SEEN + 1))
    some = views.of(slice(0, 2))
    came = augment.apply(settings, SEEN, pixels, some)
    padded = augment.pad(pixels, 2, "zeros")
    for i, (top, left, flip) in enumerate(zip(some.top, some.left, some.flip, strict=True)):
        cut = padded[i, top : top + SEEN, left : left + SEEN]
        assert torch.equal(came[i], cut.flip(1) if flip else cut)


def test_views_repeat_and_do_not_hang_on_the_batch() -> None:
    views = [feed(num_views=2).views(RESIZED, seed, epoch, torch.arange(12)) for seed, epoch in ((0, 1), (9, 3))]
    assert all(torch.equal(a, b) for a, b in zip(*views, strict=True))
    images, _, positions = (torch.cat(parts) for parts in zip(*batches(feed(num_views=2)), strict=True))
    ordered = images[positions.argsort()]
    assert torch.equal(torch.cat(list(feed(num_views=2).view_batches(RESIZED, 1, 5))), ordered)
    later = list(feed().train_batches(RESIZED, 0, 1, 5, drop_last=False, first=1))
    assert torch.equal(later[0][0], batches(feed())[1][0])


def batches(of: Feed) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    return list(of.train_batches(RESIZED, 0, 1, 5, drop_last=False))


def test_images_have_the_layout_that_networks_compute_in() -> None:
    for settings in (RESIZED, Augment()):
        images, _, _ = next(feed().train_batches(settings, 0, 0, 4, drop_last=False))
        assert images.shape == (4, 3, SEEN, SEEN)
        assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("stored_px", [SEEN, 33, 35, 37, STORED])
def test_evaluation_sees_torchvisions_centre_crop_in_torch_and_in_onnx(stored_px: int) -> None:
    whole = split(stored_px)
    expected = reference.center_crop(torch.from_numpy(whole.images).permute(0, 3, 1, 2), [SEEN, SEEN])
    images = torch.cat([batch for batch, _ in Feed(whole, tiny.NORMALIZATION, tiny.CPU).eval_batches(5)])
    assert torch.equal(images, tiny.normalized(expected.permute(0, 2, 3, 1)))
    logits = gate.predict(tiny_onnx.build(SEEN), whole, 5).numpy()
    np.testing.assert_allclose(
        logits, tiny_onnx.expected_logits(expected.permute(0, 2, 3, 1).numpy()), rtol=1e-4, atol=1e-4
    )


def test_a_mirror_that_is_smaller_than_the_padding_is_refused() -> None:
    data = Data(image_px=16, storage_px=20)
    assert Params(data=data, augment=Augment(crop_padding_px=19, pad_mode="reflect")).data is data
    with pytest.raises(ValueError, match="images of 20 px can be mirrored by 19 px at most"):
        Params(data=data, augment=Augment(crop_padding_px=20, pad_mode="reflect"))


@pytest.mark.parametrize(("key", "value"), [("crop_scale", (0.5, 0.2)), ("crop_ratio", (2.0, 0.5))])
def test_ranges_have_their_least_first(key: str, value: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="the smaller number must come first"):
        Augment.model_validate({key: value})
