"""ITRD and CC compute what their sources compute of a batch's embeddings: golden values, closed forms, invariances.

The golden values come from the reference implementations, run once on the inputs of golden.py.
"""

import math

import pytest
import torch
from torch import Tensor

from pipeline.distillation import cc, itrd
from pipeline.distillation.base import Method
from pipeline.models.base import Features, Tap
from tests import tiny
from tests.distillation.test_method_values_stages import golden_batch, golden_method
from tests.golden import G, logits, pooled

GOLDEN = {"rtol": 1e-4, "atol": 0.0}


def close(came: Tensor, expected: float) -> None:
    torch.testing.assert_close(came.detach(), torch.tensor(expected), **GOLDEN)


def features(h: Tensor, z: Tensor) -> Features:
    nothing = Tap(z, z, z)
    return Features(nothing, (), (), h, z)


def terms(method: Method, h_s: Tensor, h_t: Tensor) -> dict[str, Tensor]:
    """What the method makes of embeddings (4, 64) and (4, 128)."""
    (z_s, z_t) = logits()
    return method.terms(features(h_s, z_s), features(h_t, z_t), golden_batch())


# ITRD


def itrd_pooled() -> tuple[Tensor, Tensor]:
    """No column without spread, unlike the embeddings of golden.py."""
    h_s, h_t = pooled()
    return h_s + 0.05 * G((4, 64), 0.9), h_t + 0.05 * G((4, 128), 0.2)


def test_itrd_golden() -> None:
    came = terms(golden_method("itrd"), *itrd_pooled())
    assert list(came) == ["correlation", "mutual"]
    close(came["correlation"], 2 * 7.3363204)
    close(came["mutual"], 0.061744351)


def test_itrd_correlation_is_blind_to_scale_and_shift_of_every_dimension() -> None:
    e, h_t = G((5, 7), 0.3), G((5, 7), 1.4).square()
    expected = itrd.correlation_loss(e, h_t, 1.5)
    scales, shifts = 2 + G((7,), 0.2), G((7,), 0.7)
    torch.testing.assert_close(itrd.correlation_loss(scales * e + shifts, h_t, 1.5), expected)
    torch.testing.assert_close(itrd.correlation_loss(e, scales * h_t + shifts, 1.5), expected)


@pytest.mark.parametrize("alpha", [1.01, 1.5])
def test_itrd_correlation_of_perfect_and_opposite_dimensions_is_its_closed_form(alpha: float) -> None:
    # With the standard deviation of B - 1 a perfect correlation is (B - 1) / B.
    e = G((5, 7), 0.3)
    for sign in (1, -1):
        expected = math.log2(7 * (1 - sign * 4 / 5) ** (2 * alpha))
        close(itrd.correlation_loss(e, sign * 3 * e, alpha), expected)


def test_itrd_mutual_is_that_of_images_all_alike_or_all_apart() -> None:
    apart, alike = torch.eye(4), torch.ones(4, 3)
    # G_s = J = 1 / 4 on the diagonal; G_s = 1 / 4 everywhere, and J as before.
    close(itrd.mutual_loss(apart, alike), 0.0)
    close(itrd.mutual_loss(alike, apart), 16 / 16 - 4 / 16)


def test_itrd_mutual_of_embeddings_that_are_all_zero_is_that_of_no_likeness_and_has_no_gradient() -> None:
    zero, some = torch.zeros(4, 3, requires_grad=True), torch.rand(4, 3) + 1
    loss = itrd.mutual_loss(zero, some)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss == 0
    assert zero.grad is not None
    assert not zero.grad.any()
    close(itrd.mutual_loss(some, zero.detach()), float(itrd.mutual_loss(some, torch.eye(4))) + 4 / 16)


def test_itrd_mutual_is_blind_to_the_scale_of_an_image_and_to_rotation() -> None:
    h_s, h_t = itrd_pooled()
    expected = itrd.mutual_loss(h_s, h_t)
    scales = torch.tensor([[3.0], [0.2], [1.0], [9.0]])
    rotation = torch.linalg.qr(G((64, 64), 0.3) + torch.eye(64))[0]
    torch.testing.assert_close(itrd.mutual_loss(scales * h_s @ rotation, h_t / scales), expected)


def test_itrd_reads_the_embedding_for_the_likenesses_only_where_dimensions_differ() -> None:
    equal, other = tiny.method("itrd"), tiny.method("itrd", "resnet8", "wrn_16_2")
    assert isinstance(equal, itrd.Method)
    assert isinstance(other, itrd.Method)
    assert equal.embed.bias is None
    for method, reads in ((equal, False), (other, True)):
        mutual = method.train()(tiny.batch()).terms["mutual"]
        (gradient,) = torch.autograd.grad(mutual, method.embed.weight, allow_unused=True)
        assert (gradient is not None) == reads


@pytest.mark.parametrize("value", [0.0, 0.3, 1e4])
def test_itrd_columns_without_spread_count_as_uncorrelated_and_give_no_gradient(value: float) -> None:
    e, h_t = G((5, 7), 0.3), G((5, 7), 1.4).square()
    without = itrd.correlation_loss(e[:, 2:], h_t[:, 2:], 1.5)
    e[:, 0], h_t[:, 1] = value, value
    e.requires_grad_()
    came = itrd.correlation_loss(e, h_t, 1.5)
    torch.testing.assert_close(came.detach(), torch.log2(2**without + 2))
    (gradient,) = torch.autograd.grad(came, e)
    assert gradient.isfinite().all()
    assert (gradient[:, :2] == 0).all()
    assert (gradient[:, 2:].abs().sum(0) > 0).all()


def test_itrd_of_a_collapsed_batch_is_finite() -> None:
    method = tiny.method("itrd", "resnet8", "wrn_16_2").train()
    h_s = torch.full((4, 64), 0.2, requires_grad=True)
    z = torch.zeros(4, tiny.CLASSES)
    came = method.terms(features(h_s, z), features(torch.full((4, 128), 0.7), z), tiny.batch(4))
    close(came["correlation"], 2 * 7.0)
    torch.stack(list(came.values())).sum().backward()
    assert h_s.grad is not None
    assert h_s.grad.isfinite().all()


def test_itrd_gradient_is_that_of_the_bare_formula() -> None:
    h_s, h_t = (h.double()[:, :9] for h in itrd_pooled())

    def bare(h: Tensor) -> Tensor:
        e, t = ((x - x.mean(0)) / x.std(0) for x in (h, h_t))
        return ((e * t).mean(0) - 1).abs().pow(3).sum().log2()

    h_s.requires_grad_()
    came, expected = (torch.autograd.grad(f(h_s), h_s)[0] for f in (lambda h: itrd.correlation_loss(h, h_t, 1.5), bare))
    torch.testing.assert_close(came, expected)


# CC


def test_cc_golden_and_that_it_follows_the_order_of_the_batch() -> None:
    h_s, h_t = pooled()
    came = terms(golden_method("cc"), h_s, h_t)
    assert list(came) == ["congruence"]
    close(came["congruence"], 0.02 * 682.1345)
    for order, expected in (([1, 0, 2, 3], 664.3563), ([3, 2, 1, 0], 682.1345)):
        close(terms(golden_method("cc"), h_s[order], h_t[order])["congruence"], 0.02 * expected)


def test_cc_of_three_images_by_hand() -> None:
    # d = (1, 2), (3, 0), (1, 1): <d_1, d_2> = 3, <d_2, d_3> = 3, whatever the signs.
    e_t = G((3, 2), 0.4)
    e_s = e_t + torch.tensor([[1.0, -2.0], [-3.0, 0.0], [1.0, 1.0]])
    close(cc.neighbours_product(e_s, e_t), 3.0)
    close(cc.neighbours_product(e_t, e_s), 3.0)


def test_cc_of_equal_embeddings_and_of_one_image_is_zero() -> None:
    e = G((4, 6), 0.3)
    assert cc.neighbours_product(e, e) == 0
    assert cc.neighbours_product(e[:1], 2 * e[:1]) == 0


def test_cc_trains_both_embeddings_and_nothing_of_the_teacher() -> None:
    method = tiny.method("cc", "resnet8", "wrn_16_2", embedding_dim=5).train()
    assert isinstance(method, cc.Method)
    assert (method.embed_s.weight.shape, method.embed_t.weight.shape) == ((5, 64), (5, 128))
    method(tiny.batch()).terms["congruence"].backward()
    for layer in (method.embed_s, method.embed_t):
        assert layer.weight.grad is not None
        assert layer.weight.grad.abs().sum() > 0
