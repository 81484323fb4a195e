"""Images without labels in the batches of students: what they are drawn by, what they teach, and who refuses them."""

import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.arrays import Split
from pipeline.data.feed import Feed, batch_ends, ends_beside
from pipeline.distillation.base import Method, find
from pipeline.distillation.batch import cross_entropy
from pipeline.settings.params import Params
from pipeline.settings.training import Train
from pipeline.sweep.rehearsal import rehearse
from pipeline.system import registry
from pipeline.system.errors import ParamsError, StoppedError
from pipeline.training import engine
from pipeline.training.resume import Resume
from tests import tiny
from tests.training.test_engine import AUGMENT, SETTINGS, assert_same, stop_at, weights

METHODS = registry.names("pipeline.distillation")
TAKES = [name for name in METHODS if find(name).Method.needs_teacher and find(name).Method.takes_mixed]
# 40 of them, so that passes end within epochs of 64 labelled images.
HALF = SETTINGS.model_copy(update={"unlabelled_share": 0.5})
NUM = 40


def others(num_views: int | None = None) -> Feed:
    """Images of the same kind without labels."""
    images = tiny.split(NUM, seed=7).images
    return Feed(Split(images, np.full(NUM, -1, np.int64)), tiny.NORMALIZATION, tiny.CPU, num_views)


def fit(method: Method, state: Path, settings: Train = HALF) -> engine.Result:
    train = Feed(tiny.split(), tiny.NORMALIZATION, tiny.CPU, unlabelled=others())
    val, resume = tiny.feed(32, seed=1), Resume(state, "k")
    return engine.fit(method, train, val, settings, AUGMENT, 0, resume, lambda record: None)


def ends(settings: Train) -> list[int]:
    labelled = [0, *batch_ends(64, settings.labelled_size, settings.drop_last)]
    return ends_beside(labelled, settings.labelled_size, settings.unlabelled_size)


def test_every_batch_has_its_share_and_every_image_is_shown_as_often() -> None:
    assert ends(HALF) == [0, 12, 24, 36, 48, 60, 64]
    assert ends(HALF.model_copy(update={"unlabelled_share": 0.25})) == [0, 6, 12, 18, 21]
    # Each image is told by its first pixel; without views that change it.
    still, feed = AUGMENT.model_copy(update={"crop_padding_px": 0}), others()
    known = feed.images(torch.arange(NUM)).flatten(1)
    seen = [
        int((known == image.flatten()).all(1).nonzero())
        for epoch in range(5)
        for batch in feed.unlabelled_batches(still, 3, epoch, ends(HALF))
        for image in batch
    ]
    passes = [seen[start : start + NUM] for start in range(0, len(seen), NUM)]
    assert len(passes) == 8
    assert all(sorted(one) == list(range(NUM)) for one in passes)
    assert len(set(map(tuple, passes))) == 8


@pytest.mark.parametrize("num_views", [None, 2])
def test_they_are_drawn_by_seed_and_counter_alone(num_views: int | None) -> None:
    feed = others(num_views)
    whole = list(feed.unlabelled_batches(AUGMENT, 0, 3, ends(HALF)))
    assert [len(batch) for batch in whole] == [stop - start for start, stop in pairwise(ends(HALF))]
    later = list(feed.unlabelled_batches(AUGMENT, 0, 3, ends(HALF), first=2))
    assert all(map(torch.equal, later, whole[2:]))
    assert len(later) == len(whole) - 2
    # Cut into other batches, they come in the same order and look the same.
    other = torch.cat(list(feed.unlabelled_batches(AUGMENT, 0, 3, [0, 1, 33, 64])))
    assert torch.equal(other, torch.cat(whole))
    for seed, epoch in ((1, 3), (0, 4)):
        assert not torch.equal(torch.cat(list(feed.unlabelled_batches(AUGMENT, seed, epoch, ends(HALF)))), other)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_of_labelled_images_and_the_teachers_term_of_all(smoothing: float) -> None:
    method = tiny.method("kd", ce_weight=1.0, kl_weight=1.0).eval()
    labelled = replace(tiny.batch(), label_smoothing=smoothing)
    terms = []
    for seed in (1, 2):
        both = torch.cat([labelled.images, tiny.batch(seed=seed).images])
        logits, found = method(replace(labelled, images=both))
        assert logits.shape == (16, tiny.CLASSES)
        terms.append(found)
    assert torch.equal(terms[0]["ce"], terms[1]["ce"])
    assert not torch.equal(terms[0]["kl"], terms[1]["kl"])
    alone = method(labelled)
    assert torch.allclose(terms[0]["ce"], alone.terms["ce"], rtol=1e-5)
    # By the mean of both halves.
    second = method(replace(labelled, images=tiny.batch(seed=1).images)).terms["kl"]
    assert torch.allclose(terms[0]["kl"], (alone.terms["kl"] + second) / 2, rtol=1e-4)
    logits = torch.randn(16, tiny.CLASSES, requires_grad=True)
    cross_entropy(logits, labelled).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad[:8].any(1).all()
    assert not logits.grad[8:].any()


@pytest.mark.parametrize("name", TAKES)
def test_every_method_of_a_teacher_trains_on_them(name: str, tmp_path: Path) -> None:
    settings = HALF.model_copy(update={"epochs": 1, "batch_size": 8, "drop_last": True})
    (record,) = fit(tiny.method(name), tmp_path / "state", settings).history
    assert 0 <= record["train"]["top1"] <= 100


def test_an_epoch_is_a_pass_over_the_labelled_images_and_counts_them_alone(tmp_path: Path) -> None:
    method, seen = tiny.method("kd"), []
    forward = method.forward
    method.forward = lambda batch: (seen.append(batch), forward(batch))[1]  # type: ignore[method-assign]
    history = fit(method, tmp_path / "state", HALF.model_copy(update={"epochs": 1})).history
    assert sorted(torch.cat([batch.positions for batch in seen]).tolist()) == list(range(64))
    assert [len(batch.images) for batch in seen] == [24] * 5 + [8]
    assert [len(batch.labels) for batch in seen] == [12] * 5 + [4]
    top1 = history[0]["train"]["top1"] * 64 / 100
    assert round(top1) == pytest.approx(top1)


@pytest.mark.parametrize(("epoch", "step"), [(0, 0), (1, 3), (2, 5)])
def test_a_run_that_is_stopped_goes_on_to_the_same_bits(epoch: int, step: int, tmp_path: Path) -> None:
    whole = tiny.method("afd")
    expected = fit(whole, tmp_path / "whole")
    first = tiny.method("afd")
    stop_at(first, epoch, step, signal.SIGTERM)
    with pytest.raises(StoppedError):
        fit(first, tmp_path / "state")
    second = tiny.method("afd")
    for parameter in second.parameters():
        torch.nn.init.normal_(parameter)
    came = fit(second, tmp_path / "state")
    assert_same(weights(second), weights(whole))
    assert [r["train"] for r in came.history] == [r["train"] for r in expected.history]


@pytest.mark.parametrize("name", sorted(set(METHODS) - set(TAKES)))
def test_a_method_that_needs_every_label_is_refused_before_training(name: str, tmp_path: Path) -> None:
    said = f"{name} (reads the label of every image|learns from labels alone), but .*unlabelled_share to 0, or remove"
    with pytest.raises(ParamsError, match=said):
        fit(tiny.method(name), tmp_path / "state")
    params = Params.model_validate(
        {
            "data": {"image_px": 32, "unlabelled": "more"},
            "teacher": {"arch": "resnet14"},
            "student": {"arch": "resnet8"},
            "distill": {"train": {"unlabelled_share": 0.5}, "methods": {name: {}, "kd": {}}},
        }
    )
    with pytest.raises(ParamsError, match=said):
        rehearse(params)


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"batch_size": 2, "unlabelled_share": 0.9}, "leaves no labelled image in a batch; raise batch_size"),
        ({"batch_size": 8, "unlabelled_share": 0.01}, "leaves no unlabelled image in a batch; raise batch_size"),
        ({"batch_size": 8, "unlabelled_share": 0.4, "processes": 2}, "is 3 images, which cannot be divided equally"),
        ({"unlabelled_share": 0.5, "mixup_alpha": 0.2}, "which images without labels do not have"),
        ({"unlabelled_share": 1.0}, "less than 1"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(train: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Train.model_validate(train)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"unlabelled": None}}, "but data.unlabelled is null; set it to the folder"),
        ({"teach": {"views": 2, "cache": True}}, "set cache to false, or the share to 0"),
        ({"teacher": {"train": {"unlabelled_share": 0.5}}}, "the teacher learns from labels alone"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, object], said: str) -> None:
    known = {"data": {"unlabelled": "more"}, "distill": {"train": {"unlabelled_share": 0.5}}}
    assert Params.model_validate(known)
    with pytest.raises(ValueError, match=said):
        Params.model_validate(known | changes)
