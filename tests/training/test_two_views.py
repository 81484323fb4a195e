"""The loop gives methods of two views a weak and a strong one, with all that it can do: mix, resume, add images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.data import augment
from pipeline.data.arrays import Split
from pipeline.data.feed import Feed
from pipeline.distillation.base import Method
from pipeline.distillation.batch import Batch
from pipeline.settings.data import Augment
from pipeline.settings.training import Train
from pipeline.training import engine
from pipeline.training.mixing import Mixer, draw
from pipeline.training.resume import Resume
from tests import tiny
from tests.training.test_engine import SETTINGS, goes_on_to_the_same_bits

AUGMENT = Augment(crop_padding_px=2, flip=True)
ONE = SETTINGS.model_copy(update={"epochs": 1})
MIXED = {"mixup_alpha": 0.4, "cutmix_alpha": 1.0}


def fit(method: Method, state: Path, settings: Train = SETTINGS, views: Augment = AUGMENT) -> engine.Result:
    others = Feed(Split(tiny.split(40, seed=7).images, np.full(40, -1, np.int64)), tiny.NORMALIZATION, tiny.CPU)
    train = Feed(tiny.split(), tiny.NORMALIZATION, tiny.CPU, unlabelled=others if settings.unlabelled_share else None)
    val, resume = tiny.feed(32, seed=1), Resume(state, "k")
    return engine.fit(method, train, val, settings, views, 0, resume, lambda record: None)


def batches(method: Method, state: Path, settings: Train, views: Augment = AUGMENT) -> list[Batch]:
    """What the loop gave to a method."""
    seen, forward = list[Batch](), method.forward
    method.forward = lambda batch: (seen.append(batch), forward(batch))[1]  # type: ignore[method-assign]
    fit(method, state, settings, views)
    return seen


def view(number: int, positions: Tensor) -> Tensor:
    """Images in a view of epoch 0: the weak one, or the strong one."""
    settings = AUGMENT.model_copy(update={"strong": number == 1})
    drawn = augment.draw(settings, tiny.IMAGE_PX, tiny.IMAGE_PX, 0, 0, positions, number)
    return tiny.feed().seen(settings, positions, drawn)


def test_a_method_of_two_views_gets_both_of_each_image_and_others_one(tmp_path: Path) -> None:
    for name in ("mlkd", "kd"):
        seen = batches(tiny.method(name), tmp_path / name, ONE)
        assert [len(batch.labels) for batch in seen] == [24, 24, 16]
        for batch in seen:
            assert torch.equal(batch.images, view(0, batch.positions))
            assert batch.images.is_contiguous(memory_format=torch.channels_last)
            if name == "kd":
                assert batch.strong is None
            else:
                assert batch.strong is not None
                assert torch.equal(batch.strong, view(1, batch.positions))
                assert batch.strong.is_contiguous(memory_format=torch.channels_last)


def test_strong_views_are_an_augmentation_for_a_method_of_one_view(tmp_path: Path) -> None:
    strong = AUGMENT.model_copy(update={"strong": True})
    for batch in batches(tiny.method("kd"), tmp_path / "state", ONE, strong):
        drawn = augment.draw(strong, tiny.IMAGE_PX, tiny.IMAGE_PX, 0, 0, batch.positions)
        assert torch.equal(batch.images, tiny.feed().seen(strong, batch.positions, drawn))
        assert not torch.equal(batch.images, view(0, batch.positions))


def test_images_without_labels_have_two_views_too(tmp_path: Path) -> None:
    settings = ONE.model_copy(update={"unlabelled_share": 0.5})
    for batch in batches(tiny.method("crld"), tmp_path / "state", settings):
        labelled = len(batch.labels)
        assert batch.strong is not None
        assert batch.images.shape == batch.strong.shape == (2 * labelled, 3, tiny.IMAGE_PX, tiny.IMAGE_PX)
        assert torch.equal(batch.images[:labelled], view(0, batch.positions))
        assert torch.equal(batch.strong[:labelled], view(1, batch.positions))
        assert not torch.equal(batch.strong[labelled:], batch.images[labelled:])


def test_both_views_of_an_image_are_mixed_with_those_of_the_same_one_in_the_same_way() -> None:
    settings, positions = Train(mixup_alpha=0.4), torch.arange(64)
    plain = Batch(view(0, positions), tiny.feed().labels, positions, 0.0, 0, strong=view(1, positions))
    came = Mixer(tiny.feed(), settings, AUGMENT, 0, 0)(plain)
    assert came.mixed is not None
    assert came.strong is not None
    assert torch.equal(came.images, Mixer(tiny.feed(), settings, AUGMENT, 0, 0)(replace(plain, strong=None)).images)
    partner, share = draw(settings, 0, 0, 64).partner, came.mixed.share.view(-1, 1, 1, 1)
    for number, mixture in ((0, came.images), (1, came.strong)):
        expected = share * view(number, positions) + (1 - share) * view(number, partner)
        torch.testing.assert_close(mixture, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "recipe"), [("mlkd", {}), ("crld", MIXED), ("mlkd", {"unlabelled_share": 0.5})])
def test_a_run_that_is_stopped_goes_on_to_the_same_bits(name: str, recipe: dict[str, float], tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 2, **recipe})
    goes_on_to_the_same_bits(name, 1, 1, tmp_path, lambda method, state: fit(method, state, settings))
