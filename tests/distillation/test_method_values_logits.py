"""DKD, DIST, LSKD and sparse SAKD compute what their formulas say: golden values, closed forms, invariances."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.distillation import blocks, dist, sakd_sparse
from pipeline.distillation.base import Teacher, find
from pipeline.distillation.batch import Batch
from pipeline.models.base import Features, MapShape, Tap, pool
from pipeline.system.errors import ParamsError
from tests import tiny
from tests.golden import LABELS, G, logits
from tests.training.test_engine import SETTINGS, Killed, assert_same, fit, weights

GOLDEN = {"rtol": 1e-4, "atol": 0.0}
CE, KL_4 = 3.5776887, 0.63965714


def close(came: Tensor, expected: float | list[float]) -> None:
    torch.testing.assert_close(came.detach(), torch.tensor(expected), **GOLDEN)


def features(z: Tensor) -> Features:
    nothing = Tap(z, z, z)
    return Features(nothing, (), (), z, z)


def terms(name: str, z_s: Tensor, z_t: Tensor, epoch: int = 0, **config: object) -> dict[str, Tensor]:
    """What a method makes of logits alone."""
    batch = Batch(z_s, LABELS, torch.arange(len(LABELS)), 0.0, epoch)
    came: dict[str, Tensor] = tiny.method(name, **config).terms(features(z_s), features(z_t), batch)
    return came


def test_dkd_golden() -> None:
    came = terms("dkd", *logits(), warmup_epochs=0)
    assert list(came) == ["ce", "tckd", "nckd"]
    close(came["ce"], CE)
    close(came["tckd"], 0.082620189)
    close(came["tckd"] + came["nckd"], 5.1717792)


@pytest.mark.parametrize(("epoch", "share"), [(0, 1 / 20), (9, 0.5), (19, 1.0), (200, 1.0)])
def test_dkd_grows_over_the_first_twenty_epochs(epoch: int, share: float) -> None:
    came = terms("dkd", *logits(), epoch=epoch)
    close(came["tckd"] + came["nckd"], 5.1717792 * share)
    close(came["ce"], CE)


def test_dkd_with_the_weights_that_it_frees_is_the_plain_divergence() -> None:
    z_s, z_t = logits()
    target, nontarget = blocks.decouple(z_s, z_t, LABELS, 4)
    others = 1 - (z_t / 4).softmax(1)[torch.arange(4), LABELS]
    torch.testing.assert_close((target + others * nontarget).mean(), blocks.soft_kl(z_s, z_t, 4))


def test_dkd_stays_finite_where_both_networks_are_sure() -> None:
    z = torch.zeros(4, 10)
    z_t = z.clone()
    z_t[torch.arange(4), LABELS] = 1000.0
    z_s = (z_t * 2).requires_grad_()
    target, nontarget = blocks.decouple(z_s, z_t, LABELS, 1)
    (target + nontarget).sum().backward()
    assert target.isfinite().all()
    assert nontarget.isfinite().all()
    assert z_s.grad is not None
    assert z_s.grad.isfinite().all()


def test_dkd_leaves_out_the_labelled_column_and_keeps_the_order() -> None:
    z = torch.arange(8.0).view(2, 4)
    assert blocks.others(z, torch.tensor([0, 2])).tolist() == [[1, 2, 3], [4, 5, 7]]


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.53901917), (4.0, 4.4901867)])
def test_dist_golden(temperature: float, expected: float) -> None:
    came = terms("dist", *logits(), temperature=temperature, dist_weight=1.0)
    assert list(came) == ["ce", "inter", "intra"]
    close(came["inter"] + came["intra"], expected)
    twice = terms("dist", *logits(), temperature=temperature)
    close(twice["inter"] + twice["intra"], 2 * expected)


def test_dist_is_zero_for_equal_logits_and_blind_to_a_shift() -> None:
    z_s, z_t = logits()
    came = terms("dist", z_s + 5, z_s)
    assert came["inter"].abs() < 1e-4
    assert came["intra"].abs() < 1e-4
    torch.testing.assert_close(terms("dist", z_s + 3, z_t - 1), terms("dist", z_s, z_t))


def test_dist_correlation_is_that_of_torch_and_zero_without_spread() -> None:
    a, b = G((2, 9), 0.3), G((2, 9), 1.4).square()
    expected = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(a, b, strict=True)])
    torch.testing.assert_close(dist.pearson(a, b), expected)
    flat = torch.ones(2, 9, requires_grad=True)
    correlation = dist.pearson(flat, b)
    correlation.sum().backward()
    assert correlation.tolist() == [0, 0]
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def test_lskd_golden_and_no_plain_divergence_beside_it() -> None:
    came = terms("lskd", *logits())
    assert list(came) == ["ce", "kl"]
    close(came["ce"], 0.1 * CE)
    close(came["kl"], 9 * 0.095090851)


def test_lskd_is_blind_to_a_shift_and_a_positive_scale_of_either() -> None:
    z_s, z_t = logits()
    expected = terms("lskd", z_s, z_t)["kl"]
    for other in ((3 * z_s + 2, z_t), (z_s, 0.2 * z_t - 7), (5 * z_s, 0.5 * z_t)):
        torch.testing.assert_close(terms("lskd", *other)["kl"], expected)


def test_lskd_stays_finite_for_logits_without_spread() -> None:
    z = torch.zeros(4, 10, requires_grad=True)
    terms("lskd", z, logits()[1])["kl"].backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("name", ["dkd", "dist"])
def test_the_plain_divergence_can_be_added(name: str) -> None:
    assert "kl" not in terms(name, *logits())
    close(terms(name, *logits(), kl_weight=0.5)["kl"], 0.5 * KL_4)


@pytest.mark.parametrize("name", ["dkd", "dist", "lskd"])
def test_predictions_of_other_classes_are_refused_at_any_kl_weight(name: str) -> None:
    module = find(name)
    teacher = Teacher(tiny.network("resnet14", classes=7), tiny.NORMALIZATION)
    with pytest.raises(ParamsError, match=f"{name} compares predictions, .*7 classes and the data set has 4"):
        module.Method(module.Config(kl_weight=0.0), tiny.network(), teacher, tiny.card())


def test_sakd_sparse_takes_a_teacher_of_other_classes_without_the_divergence() -> None:
    teacher = Teacher(tiny.network("resnet14", classes=7), tiny.NORMALIZATION)
    config = sakd_sparse.Config(kl_weight=0.0)
    assert "kl" not in sakd_sparse.Method(config, tiny.network(), teacher, tiny.card()).train()(tiny.batch()).terms


SIZES_S = ((16, 16, 0.2), (16, 16, 0.3), (32, 8, 0.4))
SIZES_T = ((32, 32, 0.9), (32, 16, 1.0), (64, 8, 1.1), (64, 4, 1.2))


def _toy(
    drop_probability: float, sparsify: sakd_sparse.Sparsify = "scale"
) -> tuple[sakd_sparse.SparseAttention, list[Tensor], list[Tensor]]:
    maps_s, maps_t = ([G((4, c, h, h), start).relu() for c, h, start in sizes] for sizes in (SIZES_S, SIZES_T))
    shapes_s, shapes_t = (tuple(MapShape(*m.shape[1:]) for m in maps) for maps in (maps_s, maps_t))
    torch.manual_seed(0)
    return sakd_sparse.SparseAttention(shapes_s, shapes_t, 8, drop_probability, sparsify), maps_s, maps_t


def _by_definition(attention: sakd_sparse.SparseAttention, maps_s: list[Tensor], maps_t: list[Tensor]) -> Tensor:
    """The dense loss, image by image and pair by pair, with the attention's own weights."""

    def embed(layers: torch.nn.Module, maps: Tensor) -> Tensor:
        linear, norm = layers.children()
        h = maps.mean((2, 3)) @ linear.weight.T + linear.bias
        return (h - h.mean(0)) / (h.var(0, unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias

    def unit(maps: Tensor, size: int) -> Tensor:
        e = functional.adaptive_avg_pool2d(maps.square().mean(0, keepdim=True), size).flatten()
        return e / e.norm()

    q = [embed(m, f) for m, f in zip(attention.queries, maps_s, strict=True)]
    k = [embed(m, f) for m, f in zip(attention.keys, maps_t, strict=True)]
    p, r = attention.position_s, attention.position_t
    total = torch.zeros(())
    for b in range(4):
        for i, f_s in enumerate(maps_s):
            row = torch.stack([q[i][b] @ k[j][b] + p[i] @ r[j] for j in range(len(maps_t))]) / 8**0.5
            for a, f_t in zip(row.softmax(0), maps_t, strict=True):
                size = min(f_s.shape[2], f_t.shape[2])
                total = total + a * (unit(f_s[b], size) - unit(f_t[b], size)).square().mean() / 4
    return total


@pytest.mark.parametrize("sparsify", ["scale", "mask"])
def test_sakd_sparse_without_dropping_is_the_dense_formula(sparsify: sakd_sparse.Sparsify) -> None:
    attention, maps_s, maps_t = _toy(0.0, sparsify)
    torch.testing.assert_close(attention.train()(maps_s, maps_t), _by_definition(attention, maps_s, maps_t))


def test_sakd_sparse_drops_in_training_alone() -> None:
    attention, maps_s, maps_t = _toy(0.5)
    pooled = [pool(m) for m in maps_s], [pool(m) for m in maps_t]
    assert (attention.train().weights(*pooled) == 0).any()
    dense = attention.eval().weights(*pooled)
    assert (dense > 0).all()
    torch.testing.assert_close(dense.sum(2), torch.ones(4, 3))
    assert torch.equal(dense, attention.weights(*pooled))


def test_sakd_sparse_scale_mode_expects_the_dense_attention() -> None:
    e = G((1, 3, 4), 0.3, 2)
    torch.manual_seed(0)
    drawn = sakd_sparse.sparse_softmax(e.expand(20_000, 3, 4), 0.3, "scale")
    dense = e.softmax(2)
    # Five standard errors, sqrt(p / (1 - p) / n) of each value.
    bound = 5 * dense[0] * (0.3 / 0.7 / 20_000) ** 0.5
    assert ((drawn.mean(0) - dense[0]).abs() < bound).all()
    kept = drawn > 0
    torch.testing.assert_close(drawn[kept], (dense / 0.7).expand_as(drawn)[kept])
    assert 0.69 < kept.float().mean() < 0.71


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.99])
def test_sakd_sparse_mask_mode_keeps_one_of_each_row_and_rows_sum_to_one(probability: float) -> None:
    e = G((1, 3, 4), 0.3, 2).requires_grad_()
    torch.manual_seed(0)
    drawn = sakd_sparse.sparse_softmax(e.expand(20_000, 3, 4), probability, "mask")
    torch.testing.assert_close(drawn.sum(2), torch.ones(20_000, 3))
    # A row that would lose all keeps one.
    lost = probability - probability**4 / 4
    assert (drawn == 0).float().mean().item() == pytest.approx(lost, abs=0.01)
    drawn.square().sum().backward()
    assert e.grad is not None
    assert e.grad.isfinite().all()


def test_sakd_sparse_distance_of_equal_maps_is_zero_at_any_pair_of_sizes() -> None:
    maps = [torch.full((2, 3, n, n), 0.5) for n in (8, 4, 6)]
    assert sakd_sparse.pair_distances(maps, maps[:2]).shape == (2, 3, 2)
    assert sakd_sparse.pair_distances(maps, maps[:2]).abs().max() < 1e-6


def test_sakd_sparse_attends_between_blocks_or_stages() -> None:
    for taps, (num_s, num_t) in (("blocks", (3, 6)), ("stages", (3, 3))):
        method = tiny.method("sakd_sparse", taps=taps)
        assert method.attention.position_s.shape == (num_s, 128)
        assert method.attention.position_t.shape == (num_t, 128)
        assert method.train()(tiny.batch()).terms["attention"] > 0


@pytest.mark.parametrize("sparsify", ["scale", "mask"])
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_sakd_sparse_killed_and_resumed_ends_in_the_same_bits(sparsify: str, precision: str, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"precision": precision})
    config = {"sparsify": sparsify, "drop_probability": 0.5}
    whole = tiny.method("sakd_sparse", **config)
    expected = fit(whole, tmp_path / "whole", settings)

    with pytest.raises(Killed):
        fit(tiny.method("sakd_sparse", **config), tmp_path / "state", settings, kill_after=2)
    # Other random numbers drawn meanwhile: those that drop must come from the state.
    second = tiny.method("sakd_sparse", **config)
    torch.rand(7)
    came = fit(second, tmp_path / "state", settings)
    assert_same(weights(second), weights(whole))
    assert [r["train"] for r in came.history] == [r["train"] for r in expected.history]


@pytest.mark.parametrize("name", ["dkd", "dist", "lskd"])
def test_logit_methods_killed_and_resumed_end_in_the_same_bits(name: str, tmp_path: Path) -> None:
    whole, second = tiny.method(name), tiny.method(name)
    fit(whole, tmp_path / "whole")
    with pytest.raises(Killed):
        fit(tiny.method(name), tmp_path / "state", kill_after=1)
    fit(second, tmp_path / "state")
    assert_same(weights(second), weights(whole))


def test_lskd_standardizes_with_the_unbiased_deviation() -> None:
    z = blocks.standardize(G((4, 10), 0.5, 3) + 2)
    torch.testing.assert_close(z.mean(1), torch.zeros(4), rtol=0, atol=1e-6)
    torch.testing.assert_close(z.square().sum(1) / 9, torch.ones(4))
