"""RKD, CRD and SemCKD compute what their sources compute: golden values, closed forms, invariances.

The golden values come from the reference implementations, run once on the inputs of golden.py.
"""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from pipeline.distillation import crd, rkd, semckd
from pipeline.models.base import MapShape
from pipeline.settings.training import Train
from pipeline.system.errors import ParamsError
from tests import tiny
from tests.golden import G, fill, pooled, stages_s, stages_t
from tests.training.test_engine import Killed, assert_same, fit, weights

GOLDEN = {"rtol": 1e-4, "atol": 0.0}


def close(came: torch.Tensor, expected: float | list[float]) -> None:
    torch.testing.assert_close(came.detach(), torch.tensor(expected), **GOLDEN)


# RKD


def _rkd(h_s: torch.Tensor, h_t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    s, t = rkd.differences(h_s), rkd.differences(h_t)
    distance = functional.smooth_l1_loss(rkd.distances(s), rkd.distances(t))
    return distance, functional.smooth_l1_loss(rkd.angles(s), rkd.angles(t))


def test_rkd_golden() -> None:
    distance, angle = _rkd(*pooled())
    close(distance, 0.099992365)
    close(angle, 0.056407522)
    config = rkd.Config()
    close(config.distance_weight * distance + config.angle_weight * angle, 5.3201852)


def test_rkd_terms_are_the_weighted_distances_of_pooled_features() -> None:
    method, batch = tiny.method("rkd").train(), tiny.batch()
    s, t = method.student.features(batch.images), method.teach(batch.images)
    terms = method.terms(s, t, batch)
    distance, angle = _rkd(s.pooled, t.pooled)
    assert set(terms) == {"ce", "distance", "angle"}
    torch.testing.assert_close(terms["distance"], 25 * distance)
    torch.testing.assert_close(terms["angle"], 50 * angle)


def test_rkd_is_zero_for_equal_embeddings_and_blind_to_scale_shift_and_rotation() -> None:
    h_s, h_t = (h.double() for h in pooled())
    assert max(map(abs, map(float, _rkd(h_s, h_s)))) == 0
    rotation = torch.linalg.qr(G((64, 64), 0.4).double())[0]
    for same in (3.7 * h_s, h_s + 0.5, h_s @ rotation):
        torch.testing.assert_close(_rkd(same, h_t), _rkd(h_s, h_t))
        torch.testing.assert_close(_rkd(h_t, same), _rkd(h_t, h_s))


def test_rkd_on_an_equilateral_triangle_is_its_closed_form() -> None:
    # All relative distances are 1 and all angles 60 degrees, or 0 between a direction and itself.
    triangle = rkd.differences(torch.eye(3))
    torch.testing.assert_close(rkd.distances(triangle), 1 - torch.eye(3))
    others = 1 - torch.eye(3)
    expected = 0.5 * torch.einsum("ij,ik->ijk", others, others) * (1 + torch.eye(3))
    torch.testing.assert_close(rkd.angles(triangle), expected)


@pytest.mark.parametrize("gap", [0.0, 1e-7])
def test_rkd_gradient_stays_bounded_where_embeddings_coincide_and_its_value_as_it_is(gap: float) -> None:
    h_s, h_t = pooled()
    h_s[1] = h_s[0] + gap
    h_s.requires_grad_()
    distance, angle = _rkd(h_s, h_t)
    (distance + angle).backward()  # type: ignore[no-untyped-call]
    assert h_s.grad is not None
    assert h_s.grad.isfinite().all()
    assert 0 < h_s.grad.abs().max() < 10
    directions = functional.normalize(rkd.differences(h_s.detach()), dim=2)
    torch.testing.assert_close(
        rkd.angles(rkd.differences(h_s.detach())), torch.einsum("ijd,ikd->ijk", directions, directions)
    )


def test_rkd_gradient_is_the_true_one_where_embeddings_are_apart() -> None:
    h_t = G((4, 6), 0.8).double()
    h_s = G((4, 5), 0.3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda h: torch.stack(_rkd(h, h_t)).sum(), (h_s,))


@pytest.mark.parametrize("images", [1, 4])
def test_rkd_is_finite_for_one_image_and_for_a_collapsed_batch(images: int) -> None:
    h_s = torch.ones(images, 5, requires_grad=True)
    total = torch.stack(_rkd(h_s, G((images, 6), 0.8))).sum()
    total.backward()  # type: ignore[no-untyped-call]
    assert total.isfinite()
    assert h_s.grad is not None
    assert h_s.grad.isfinite().all()


def test_rkd_leaves_a_term_of_weight_zero_out() -> None:
    assert set(tiny.method("rkd", angle_weight=0)(tiny.batch()).terms) == {"ce", "distance"}


# CRD

POSITIONS = torch.arange(4)
NEGATIVES = (POSITIONS.unsqueeze(1) + 3 * torch.arange(6) + 1) % 20


def _contrast() -> crd.Contrast:
    contrast = fill(crd.Contrast(64, 128, 20, crd.Config(embedding_dim=16)))
    contrast.bank_s = functional.normalize(G((20, 16), 0.2))
    contrast.bank_t = functional.normalize(G((20, 16), 0.7))
    return contrast


def test_crd_golden() -> None:
    contrast = _contrast()
    close(contrast(*pooled(), POSITIONS, NEGATIVES), 6.243021)
    close(contrast.z_s, 36.8573)
    close(contrast.z_t, 26.75)


def test_crd_keeps_the_z_of_the_first_training_batch() -> None:
    contrast = _contrast()
    h_s, h_t = pooled()
    contrast.eval()(h_s, h_t, POSITIONS, NEGATIVES)
    assert contrast.z_s == contrast.z_t == -1
    contrast.train()(h_s, h_t, POSITIONS, NEGATIVES)
    first = contrast.z_s.clone(), contrast.z_t.clone()
    contrast(h_s.flip(0), h_t.flip(0), POSITIONS, NEGATIVES)
    assert (contrast.z_s, contrast.z_t) == first


def test_crd_bank_rows_become_unit_vectors_halfway_to_the_new_embedding_and_others_stay() -> None:
    contrast = _contrast()
    with torch.no_grad():
        contrast.bank_s *= 3
    before = contrast.bank_s.clone()
    h_s, h_t = pooled()
    contrast(h_s, h_t, POSITIONS, NEGATIVES)
    expected = 0.5 * before[:4] + 0.5 * functional.normalize(contrast.embed_s(h_s)).detach()
    torch.testing.assert_close(contrast.bank_s[:4], functional.normalize(expected))
    for bank in (contrast.bank_s, contrast.bank_t):
        torch.testing.assert_close(bank[:4].norm(dim=1), torch.ones(4))
    assert torch.equal(contrast.bank_s[4:], before[4:])
    assert not contrast.bank_s.requires_grad


def test_crd_gradient_is_that_of_the_banks_before_their_update() -> None:
    h_s, h_t = pooled()
    trained, fixed = _contrast(), _contrast().eval()
    for contrast in (trained, fixed):
        contrast(h_s, h_t, POSITIONS, NEGATIVES).backward()
    for name, parameter in trained.named_parameters():
        torch.testing.assert_close(parameter.grad, fixed.get_parameter(name).grad)


def test_crd_picks_the_rows_that_are_asked_for_repeated_ones_too() -> None:
    contrast = _contrast().eval()
    h_s, _ = pooled()
    negatives = torch.tensor([[5, 5, 9]]).expand(4, 3)
    embedding = functional.normalize(contrast.embed_s(h_s))
    columns = torch.cat([POSITIONS.unsqueeze(1), negatives], 1)
    expected = (torch.einsum("bkd,bd->bk", contrast.bank_t[columns], embedding) / 0.07).exp()
    torch.testing.assert_close(contrast._scores(embedding, contrast.bank_t, columns), expected)


def test_crd_loss_of_scores_that_say_nothing_is_its_closed_form() -> None:
    # o = K / N everywhere: the posterior is 1/2 for the positive and for each of the K negatives.
    scores = torch.full((2, 1 + 6), 6 / 20)
    torch.testing.assert_close(crd.nce(scores, 20), 7 * torch.tensor(2.0).log())


def test_crd_banks_begin_with_norms_around_one_and_z_unknown() -> None:
    contrast = crd.Contrast(64, 128, 2000, crd.Config())
    assert contrast.bank_s.abs().max() <= 1 / (128 / 3) ** 0.5
    assert contrast.bank_s.norm(dim=1).mean() == pytest.approx(1, abs=0.02)
    assert contrast.z_s == -1


def _sampler(labels: torch.Tensor, num_negatives: int) -> crd.Method:
    method = tiny.method("crd", num_negatives=num_negatives)
    assert isinstance(method, crd.Method)
    method.begin(labels)
    return method


def test_crd_negatives_are_uniform_over_all_images_of_other_classes() -> None:
    torch.manual_seed(0)
    # Classes of 1, 9, 22 and 32 images, in mixed order; class 2 has no images at all.
    labels = torch.tensor([0] * 1 + [1] * 9 + [3] * 22 + [4] * 32)[torch.randperm(64)]
    method = _sampler(labels, 16).train()
    positions = torch.arange(64)
    draws = torch.cat([method.negatives(positions) for _ in range(400)], 1)
    assert (labels[draws] != labels[positions].unsqueeze(1)).all()
    for position in (int((labels == k).nonzero()[0]) for k in (0, 1, 3, 4)):
        others = labels != labels[position]
        counts = draws[position].bincount(minlength=64)
        assert (counts[~others] == 0).all()
        # 5 standard deviations of a Poisson count.
        mean = draws.shape[1] / int(others.sum())
        assert ((counts[others] - mean).abs() < 5 * mean**0.5).all()


def test_crd_without_labels_draws_from_all_other_images() -> None:
    method = tiny.method("crd", num_negatives=16384).train()
    assert isinstance(method, crd.Method)
    drawn = torch.cat([method.negatives(torch.tensor([0, 31, 63])) for _ in range(10)], 1)
    assert drawn.shape == (3, 630)  # lowered to the 63 others
    for position, row in zip((0, 31, 63), drawn, strict=True):
        assert set(row.tolist()) == set(range(64)) - {position}


def test_crd_lowers_the_negatives_to_what_lies_outside_the_largest_class() -> None:
    labels = torch.tensor([0] * 40 + [1] * 24)
    assert _sampler(labels, 16384).negatives(torch.arange(8)).shape == (8, 24)
    assert _sampler(labels, 5).negatives(torch.arange(8)).shape == (8, 5)


def test_crd_in_eval_mode_changes_nothing_and_repeats_itself() -> None:
    method = tiny.method("crd").train()
    method(tiny.batch())
    before, random = weights(method), torch.get_rng_state()
    batch = tiny.batch(seed=1)
    torch.set_rng_state(random)
    method.eval()
    first, second = (method(batch).terms for _ in range(2))
    assert torch.equal(first["contrast"], second["contrast"])
    assert_same(weights(method), before)
    assert torch.equal(torch.get_rng_state(), random)


def test_crd_refuses_a_training_set_of_one_class_or_of_another_size() -> None:
    with pytest.raises(ParamsError, match="all 64 training images are of one class"):
        tiny.method("crd").begin(torch.zeros(64, dtype=torch.int64))
    with pytest.raises(ParamsError, match="64 training images of the data card, but the training set has 63"):
        tiny.method("crd").begin(torch.zeros(63, dtype=torch.int64))


def test_crd_says_when_its_banks_are_large(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.method("crd")
    assert not capsys.readouterr().err
    monkeypatch.setattr(crd, "_LARGE_BYTES", 2 * 4 * 64 * 128 - 1)
    tiny.method("crd")
    assert "two embeddings of 128 numbers for each of 64 training images" in capsys.readouterr().err


# SemCKD


def _calibration(batch_size: int = 4) -> semckd.Calibration:
    s, t = (tuple(MapShape(*m.shape[1:]) for m in maps) for maps in (stages_s(), stages_t()))
    return fill(semckd.Calibration(s, t, batch_size))


def test_semckd_golden() -> None:
    calibration = _calibration()
    close(calibration(stages_s(), stages_t()), 0.31257305)
    torch.testing.assert_close(calibration.attention(stages_s(), stages_t()), torch.full((4, 3, 3), 1 / 3))


def _eight(maps: list[torch.Tensor]) -> list[torch.Tensor]:
    return [torch.cat([m, m.flip(3) + 0.3]) for m in maps]


def test_semckd_attention_rows_sum_to_one_and_depend_on_the_image() -> None:
    torch.manual_seed(0)
    s, t = (tuple(MapShape(*m.shape[1:]) for m in maps) for maps in (stages_s(), stages_t()))
    attention = semckd.Calibration(s, t, 8).attention(_eight(stages_s()), _eight(stages_t()))
    assert attention.shape == (8, 3, 3)
    torch.testing.assert_close(attention.sum(2), torch.ones(8, 3))
    # Logits are cosines, so no weight is more than e^2 times another.
    assert attention.max() / attention.min() < torch.e**2
    assert attention.std(0).max() > 0.01


@torch.no_grad()
def test_semckd_distance_is_the_attended_mean_of_plain_losses_of_each_pair() -> None:
    torch.manual_seed(0)
    maps_s, maps_t = _eight(stages_s()), _eight(stages_t())
    s, t = (tuple(MapShape(*m.shape[1:]) for m in maps) for maps in (maps_s, maps_t))
    calibration = semckd.Calibration(s, t, 8).eval()
    attention, total = calibration.attention(maps_s, maps_t), 0.0
    for i, map_s in enumerate(maps_s):
        for j, map_t in enumerate(maps_t):
            side = min(map_s.shape[2], map_t.shape[2])
            small_s, small_t = (functional.adaptive_avg_pool2d(m, side) for m in (map_s, map_t))
            projected = calibration.get_submodule(f"projectors.{i * 3 + j}")(small_s)
            for b in range(8):
                total += float(attention[b, i, j] * functional.mse_loss(projected[b], small_t[b]))
    torch.testing.assert_close(float(calibration(maps_s, maps_t)), total / (8 * 3), rtol=1e-5, atol=0)


def test_semckd_refuses_batches_it_is_not_made_for(tmp_path: Path) -> None:
    settings = Train(epochs=1, batch_size=24, precision="fp32")
    with pytest.raises(ParamsError, match=r"to the same number \(now 24 and 8\) .* to true \(now false\)"):
        fit(tiny.method("semckd"), tmp_path / "state", settings)
    with pytest.raises(ParamsError, match=r"\(now 24 and 24\) and distill.train.drop_last to true \(now false\)"):
        fit(tiny.method("semckd", batch_size=24), tmp_path / "state", settings)
    fit(tiny.method("semckd", batch_size=24), tmp_path / "state", settings.model_copy(update={"drop_last": True}))


def test_semckd_leaves_its_term_out_in_eval_mode_on_a_batch_of_another_size() -> None:
    method = tiny.method("semckd").eval()
    assert set(method(tiny.batch(8)).terms) == {"ce", "kl", "semantic"}
    assert set(method(tiny.batch(5)).terms) == {"ce", "kl"}


def test_semckd_serves_networks_with_different_numbers_and_sizes_of_stages() -> None:
    assert tiny.method("semckd", "resnet8", "resnet18").train()(tiny.batch()).terms["semantic"].isfinite()


# All


@pytest.mark.slow
@pytest.mark.parametrize("name", ["crd", "rkd", "semckd"])
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_a_killed_and_resumed_run_ends_in_the_same_bits(name: str, precision: str, tmp_path: Path) -> None:
    settings = Train(epochs=3, batch_size=16, lr=0.02, milestones=(0.67,), precision=precision, drop_last=True)
    config = {"semckd": {"batch_size": 16}}.get(name, {})
    whole = tiny.method(name, **config)
    expected = fit(whole, tmp_path / "whole", settings)
    with pytest.raises(Killed):
        fit(tiny.method(name, **config), tmp_path / "state", settings, kill_after=2)
    # Another start, other random numbers drawn meanwhile: all must come from the state.
    second = tiny.method(name, **config)
    for tensor in second.state_dict().values():
        if tensor.is_floating_point():
            torch.nn.init.constant_(tensor, 0.1)
    torch.manual_seed(99)
    came = fit(second, tmp_path / "state", settings)
    assert_same(weights(second), weights(whole))
    assert [r["train"] for r in came.history] == [r["train"] for r in expected.history]
