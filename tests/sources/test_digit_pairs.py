"""The embedded data: repeatable, balanced, and no digit image in two splits."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from pipeline.settings.data import Data
from pipeline.sources import digit_pairs
from pipeline.sources.digit_pairs import Config
from pipeline.system.errors import ParamsError

CONFIG = Config(train=300, val=150, test=200)


def splits(config: Config = CONFIG, **data: Any) -> Mapping[str, Any]:
    """The opened splits."""
    return digit_pairs.open_source(config, Data(**data)).splits


def test_every_digit_image_is_dealt_to_one_pool_only() -> None:
    targets = load_digits().target
    pools = digit_pairs.deal(targets, seed=3)
    assert set(pools) == {"train", "val", "test"}
    dealt = np.concatenate([pool for by_digit in pools.values() for pool in by_digit])
    np.testing.assert_array_equal(np.sort(dealt), np.arange(1797))
    for by_digit in pools.values():
        for digit, pool in enumerate(by_digit):
            assert len(pool) >= 20
            assert (targets[pool] == digit).all()


def test_no_digit_image_stands_in_two_splits() -> None:
    used = {
        name: {number for index in range(len(split)) for number in split.pair(index)}
        for name, split in splits().items()
    }
    assert all(used.values())
    assert not used["train"] & used["val"]
    assert not used["train"] & used["test"]
    assert not used["val"] & used["test"]


def test_no_two_of_the_original_images_are_the_same() -> None:
    assert len(np.unique(load_digits().data, axis=0)) == 1797


def test_a_pair_shows_the_digits_of_its_label() -> None:
    source = digit_pairs.open_source(CONFIG, Data())
    targets = load_digits().target
    split = splits()["test"]
    for index in range(len(split)):
        left, right = split.pair(index)
        assert f"{targets[left]}{targets[right]}" == source.labels[split.labels[index]]


def test_labels_are_balanced() -> None:
    for split in splits().values():
        counts = np.bincount(split.labels, minlength=100)
        assert counts.max() - counts.min() <= 1


def test_an_image_depends_on_seed_split_and_number_alone() -> None:
    few, many = splits(), splits(Config(train=500))
    np.testing.assert_array_equal(few["train"].read(299), many["train"].read(299))
    again = splits()
    for index in (5, 0, 5):
        np.testing.assert_array_equal(few["val"].read(index), again["val"].read(index))
    assert (few["train"].read(0) != few["test"].read(0)).any()
    assert (few["train"].read(0) != splits(seed=1)["train"].read(0)).any()


@pytest.mark.parametrize("image_px", [8, 32, 33, 96])
def test_images_have_the_size_asked_for_and_are_grey(image_px: int) -> None:
    pixels = splits(Config(max_shift_px=1), image_px=image_px)["train"].read(1)
    assert pixels.shape == (image_px, image_px, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == pixels[..., :1]).all()


def test_images_that_are_stored_larger_are_drawn_larger() -> None:
    larger = splits(image_px=32, storage_px=40)["train"].read(1)
    np.testing.assert_array_equal(larger, splits(image_px=40)["train"].read(1))
    assert larger.shape == (40, 40, 3)


def test_without_noise_the_ink_is_that_of_the_original() -> None:
    split = splits(Config(noise_std=0, max_shift_px=0))["train"]
    pixels = split.read(0)
    left, right = split.pair(0)
    assert pixels[:, :16].max() > 200
    assert pixels[:, 16:].max() > 200
    assert (pixels[:6] == 0).all(), "nothing above the digits"
    assert f"images {left} and {right}" in split.name(0)


def test_noise_is_as_strong_as_said() -> None:
    clean = splits(Config(noise_std=0))["train"].read(0).astype(float)
    noisy = splits(Config(noise_std=20))["train"].read(0).astype(float)
    inked = (clean > 80) & (clean < 170)
    assert 14 < (noisy - clean)[inked].std() < 26


def test_a_shift_that_swaps_the_digits_is_refused() -> None:
    with pytest.raises(ParamsError, match=r"max_shift_px is 8; with images of 32 px it must stay below 8"):
        splits(Config(max_shift_px=8))
