"""Mixed images and softened labels: what timm and torch make of them, the same for both networks, wherever computed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.data.mixup import cutmix_bbox_and_lam, mixup_target
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor
from torch.nn import functional

from pipeline.distillation.base import find
from pipeline.distillation.batch import Batch, Mixed, Output, cross_entropy
from pipeline.models.base import Features
from pipeline.settings.params import Params
from pipeline.settings.training import Train
from pipeline.sweep.rehearsal import rehearse
from pipeline.system import registry
from pipeline.system.errors import ParamsError
from pipeline.training.mixing import Draws, Mixer, draw, weights
from tests import tiny
from tests.training.test_engine import AUGMENT, SETTINGS, fit

METHODS = registry.names("pipeline.distillation")
MIXUP, CUTMIX, BOTH = (
    SETTINGS.model_copy(update=update)
    for update in ({"mixup_alpha": 0.4}, {"cutmix_alpha": 1.0}, {"mixup_alpha": 0.4, "cutmix_alpha": 1.0})
)


def whole_epoch(epoch: int = 1) -> Batch:
    """The training set as one batch, in the views of that epoch."""
    images, labels, positions = next(tiny.feed().train_batches(AUGMENT, 0, epoch, 64, False))
    return Batch(images, labels, positions, 0.0, epoch)


def mixed(settings: Train, batch: Batch, seed: int = 0) -> tuple[Tensor, Mixed]:
    came = Mixer(tiny.feed(), settings, AUGMENT, seed, batch.epoch)(batch)
    assert came.mixed is not None
    return came.images, came.mixed


def rows(batch: Batch, chosen: Tensor) -> Batch:
    return replace(batch, images=batch.images[chosen], labels=batch.labels[chosen], positions=batch.positions[chosen])


@pytest.mark.parametrize("settings", [MIXUP, CUTMIX, BOTH])
def test_a_mixture_depends_on_seed_epoch_and_position_alone(settings: Train) -> None:
    batch = whole_epoch()
    images, second = mixed(settings, batch)
    for chosen in (torch.tensor([5, 0, 17]), torch.tensor([40])):
        part, of_part = mixed(settings, rows(batch, chosen))
        assert torch.equal(part, images[chosen])
        assert torch.equal(of_part.labels, second.labels[chosen])
        assert torch.equal(of_part.share, second.share[chosen])
    assert not torch.equal(mixed(settings, batch, seed=1)[0], images)
    assert not torch.equal(mixed(settings, whole_epoch(2))[1].share, second.share)


@pytest.mark.parametrize("settings", [MIXUP, CUTMIX])
def test_a_mixture_is_made_of_the_two_views_of_the_epoch(settings: Train) -> None:
    batch = whole_epoch()
    images, second = mixed(settings, batch)
    partner = draw(settings, 0, batch.epoch, 64).partner
    view_of = torch.empty_like(batch.images)
    view_of[batch.positions] = batch.images
    for i in range(64):
        first, other = batch.images[i], view_of[partner[batch.positions[i]]]
        assert second.labels[i] == tiny.feed().labels[partner[batch.positions[i]]]
        share = second.share[i]
        if settings is MIXUP:
            torch.testing.assert_close(images[i], share * first + (1 - share) * other)
        else:
            own = (images[i] == first).all(0)
            assert torch.equal(images[i][:, ~own], other[:, ~own])
            # Where the two agree by chance, more is the first's than its share says.
            assert own.float().mean() >= share - 1e-6
    assert images.stride() == batch.images.stride()


def test_partners_are_a_permutation_and_shares_those_of_the_beta_distribution() -> None:
    for alpha in (0.2, 1.0, 3.0):
        draws = draw(Train(mixup_alpha=alpha), 0, 0, 50_000)
        assert torch.equal(draws.partner.sort().values, torch.arange(50_000))
        # The tolerance is five standard errors and more: var <= 1/4, and so that of its estimate <= 1/16.
        assert draws.share.mean().item() == pytest.approx(0.5, abs=0.012)
        assert draws.share.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.006)
        assert not draws.cut.any()


def test_with_both_each_image_has_one_of_the_two() -> None:
    draws = draw(Train(mixup_alpha=100.0, cutmix_alpha=0.5), 0, 0, 10_000)
    assert draws.cut.double().mean().item() == pytest.approx(0.5, abs=0.03)
    # Beta(100, 100) stays near one half, Beta(0.5, 0.5) does not.
    assert draws.share[~draws.cut].sub(0.5).abs().max() < 0.2
    assert draws.share[draws.cut].sub(0.5).abs().max() > 0.49


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40)])
def test_the_box_and_the_share_left_are_those_of_timm(height: int, width: int) -> None:
    for seed in range(50):
        lam = np.random.default_rng(seed).beta(1.0, 1.0)
        np.random.seed(seed)
        (top, bottom, left, right), expected = cutmix_bbox_and_lam((3, height, width), lam)
        np.random.seed(seed)
        row, column = (np.random.randint(0, size) for size in (height, width))
        centre = ((row + 0.5) / height, (column + 0.5) / width)
        came = weights(Draws(*(torch.tensor([x]) for x in (0, True, lam, *centre))), height, width)
        box = torch.ones(1, height, width)
        box[:, top:bottom, left:right] = 0
        assert torch.equal(came, box)
        assert came.mean().item() == pytest.approx(expected, abs=1e-6)


def test_where_nothing_is_mixed_the_batch_stays() -> None:
    batch = whole_epoch()
    assert Mixer(tiny.feed(), SETTINGS, AUGMENT, 0, 0)(batch) is batch


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_cross_entropy_is_that_of_timm_and_of_torch_with_soft_targets(smoothing: float) -> None:
    logits, labels = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 4, 1, 1, 2, 3])
    batch = replace(tiny.batch(6), labels=labels, label_smoothing=smoothing)
    for lam in (0.3, 1.0):
        both = replace(batch, mixed=Mixed(labels.flip(0), torch.full((6,), lam)))
        expected = SoftTargetCrossEntropy()(logits, mixup_target(labels, 5, lam, smoothing))
        torch.testing.assert_close(cross_entropy(logits, both), expected)
    share = torch.tensor([0.0, 0.2, 0.5, 0.7, 0.9, 1.0])
    first, second = (functional.one_hot(y, 5) * (1 - smoothing) + smoothing / 5 for y in (labels, labels.roll(1)))
    targets = share.unsqueeze(1) * first + (1 - share).unsqueeze(1) * second
    came = cross_entropy(logits, replace(batch, mixed=Mixed(labels.roll(1), share)))
    torch.testing.assert_close(came, functional.cross_entropy(logits, targets))
    expected = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    assert torch.equal(cross_entropy(logits, batch), expected)


def test_top1_counts_what_an_image_shows_most_of() -> None:
    batch = replace(tiny.batch(3), labels=torch.tensor([0, 1, 2]))
    assert torch.equal(batch.main_labels(), batch.labels)
    second = Mixed(torch.tensor([3, 3, 3]), torch.tensor([0.4, 0.5, 0.6]))
    assert replace(batch, mixed=second).main_labels().tolist() == [3, 1, 2]


@pytest.mark.parametrize("name", ["kd", "simkd"])
def test_student_and_teacher_see_the_same_mixture(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method, seen, taught = tiny.method(name), [], []
    features, teach = method.student.walk, method.teach

    def walk(images: Tensor) -> object:
        seen.append(images.clone())
        return features(images)

    def asked(images: Tensor) -> Features:
        taught.append(images.clone())
        return teach(images)

    monkeypatch.setattr(method.student, "walk", walk)
    monkeypatch.setattr(method, "teach", asked)
    settings = BOTH.model_copy(update={"epochs": 1})
    fit(method, tmp_path / "state", settings)
    trained = seen[: len(taught)]  # behind them come those of the validation
    assert len(taught) == 3
    assert all(torch.equal(a, b) for a, b in zip(trained, taught, strict=True))
    plain = tiny.feed().train_batches(AUGMENT, 0, 0, 24, False)
    assert not any(torch.equal(a, b) for a, (b, _, _) in zip(trained, plain, strict=True))


def test_the_loss_of_a_training_is_smoothed_and_mixed_and_its_top1_counted_as_said(tmp_path: Path) -> None:
    settings = BOTH.model_copy(update={"epochs": 1, "label_smoothing": 0.2})
    method, losses, hits = tiny.method("vanilla"), [], []
    forward = method.forward

    def watched(batch: Batch) -> Output:
        output = forward(batch)
        assert batch.mixed is not None
        assert batch.label_smoothing == 0.2
        losses.append(len(batch.labels) * cross_entropy(output.logits, batch).item())
        hits.append((output.logits.argmax(1) == batch.main_labels()).sum().item())
        return output

    method.forward = watched  # type: ignore[method-assign]
    record = fit(method, tmp_path / "state", settings).history[0]["train"]
    assert record["loss"] == pytest.approx(sum(losses) / 64, rel=1e-6)
    assert record["top1"] == 100 * sum(hits) / 64


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_mixtures_if_labels_and_positions_meet_its_cross_entropy_alone(name: str) -> None:
    """That a method says the truth of itself: what reads them has other values when they change."""
    method = tiny.method(name).eval()
    method.begin(tiny.feed().labels)
    batch = tiny.batch()
    other = replace(batch, labels=batch.labels.flip(0), positions=batch.positions + 8)
    with torch.no_grad():
        came, expected = (method(b).terms for b in (other, batch))
    changed = {key for key in came if key != "ce" and not torch.equal(came[key], expected[key])}
    assert method.takes_mixed == (not changed), changed


@pytest.mark.parametrize("name", [name for name in METHODS if not find(name).Method.takes_mixed])
def test_a_method_that_takes_no_mixtures_is_refused_before_training(name: str, tmp_path: Path) -> None:
    said = f"{name} expects that each image shows its labelled class alone.*mixup_alpha and cutmix_alpha to 0"
    for settings in (MIXUP, CUTMIX):
        with pytest.raises(ParamsError, match=said):
            fit(tiny.method(name), tmp_path / "state", settings)
        params = Params.model_validate(
            {
                "data": {"image_px": 32},
                "teacher": {"arch": "resnet14"},
                "student": {"arch": "resnet8"},
                "distill": {"train": settings.model_dump(), "methods": {name: {}}},
            }
        )
        with pytest.raises(ParamsError, match=said):
            rehearse(params)
    assert fit(tiny.method(name), tmp_path / "state", SETTINGS.model_copy(update={"epochs": 1})).history


@pytest.mark.parametrize("name", [name for name in METHODS if find(name).Method.takes_mixed])
def test_every_other_method_trains_on_mixtures(name: str, tmp_path: Path) -> None:
    settings = BOTH.model_copy(update={"epochs": 1, "batch_size": 8, "drop_last": True})
    assert fit(tiny.method(name), tmp_path / "state", settings).history
