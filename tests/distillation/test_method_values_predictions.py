"""WTTM computes what its source computes of predictions: golden values, closed forms, invariances.

The golden values come from the reference implementation, run once on the inputs of golden.py.
"""

import pytest
import torch
from torch import Tensor

from pipeline.distillation import blocks, wttm
from pipeline.distillation.base import Batch, Teacher
from pipeline.models.base import Features, Tap
from pipeline.system.errors import ParamsError
from tests import tiny
from tests.golden import LABELS, logits

GOLDEN = {"rtol": 1e-4, "atol": 0.0}


def close(came: Tensor, expected: float | list[float]) -> None:
    torch.testing.assert_close(came.detach(), torch.tensor(expected), **GOLDEN)


def features(z: Tensor) -> Features:
    nothing = Tap(z, z, z)
    return Features(nothing, (), (), z, z)


def terms(z_s: Tensor, z_t: Tensor, **config: object) -> dict[str, Tensor]:
    """What wttm makes of logits alone."""
    batch = Batch(z_s, LABELS, torch.arange(len(LABELS)), 0.0, 0)
    came: dict[str, Tensor] = tiny.method("wttm", **config).terms(features(z_s), features(z_t), batch)
    return came


# WTTM


@pytest.mark.parametrize(
    ("weighted", "power", "expected"),
    [
        (False, 0.1, 0.9687354),
        (False, 0.2, 0.6616056),
        (False, 0.5, 0.2679269),
        (True, 0.1, 6.4341092),
        (True, 0.2, 3.1379538),
        (True, 0.5, 0.6408782),
    ],
)
def test_wttm_and_ttm_golden(weighted: bool, power: float, expected: float) -> None:
    came = terms(*logits(), weighted=weighted, power=power, matching_weight=2.0)
    assert list(came) == ["ce", "matching"]
    close(came["ce"], 3.5776887)
    close(came["matching"], 2 * expected)


def test_wttm_weights_golden_and_their_bounds() -> None:
    close(wttm.power_sums(logits()[1], 0.2), [4.8338, 4.6337, 4.2176, 5.5232])
    torch.testing.assert_close(wttm.power_sums(torch.zeros(1, 100), 0.2), torch.tensor([100**0.8]))
    close(wttm.power_sums(1000 * torch.eye(10), 0.2), [1.0] * 10)


def test_wttm_ttm_and_the_plain_divergence_are_one_at_power_one() -> None:
    z_s, z_t = logits()
    expected = blocks.soft_kl(z_s, z_t, 1)
    for weighted in (True, False):
        came = terms(z_s, z_t, weighted=weighted, power=1.0, matching_weight=1.0)["matching"]
        torch.testing.assert_close(came, expected)


@pytest.mark.parametrize("weighted", [True, False])
def test_wttm_is_blind_to_a_shift_of_either_network_s_logits(weighted: bool) -> None:
    z_s, z_t = logits()
    shifts = torch.tensor([[3.0], [-2.0], [0.5], [7.0]])
    expected = terms(z_s, z_t, weighted=weighted)
    torch.testing.assert_close(terms(z_s + shifts, z_t - shifts, weighted=weighted), expected)


def test_wttm_gradient_is_the_weighted_difference_of_probabilities() -> None:
    z_s, z_t = logits()
    z_s.requires_grad_()
    (gradient,) = torch.autograd.grad(terms(z_s, z_t, power=0.5)["matching"], z_s)
    p = z_t.softmax(1).sqrt()
    u = p.sum(1, keepdim=True)
    torch.testing.assert_close(gradient, 4 * u * (z_s.detach().softmax(1) - p / u) / 4)


def test_wttm_raises_what_float32_rounds_to_nothing() -> None:
    # p of the other nine classes is e^-200, which is 0 in float32; to the power 0.1 it is e^-20.
    z_t = torch.zeros(1, 10)
    z_t[0, 3] = 200.0
    p = z_t.double().softmax(1)
    u = (p**0.1).sum(1)
    q = p**0.1 / u
    expected = (q * (q.log() - torch.zeros(1, 10).double().log_softmax(1))).sum(1)
    torch.testing.assert_close(wttm.power_divergences(torch.zeros(1, 10), z_t, 0.1), expected.float())
    z_s = torch.zeros(1, 10, requires_grad=True)
    (gradient,) = torch.autograd.grad(wttm.power_divergences(z_s, z_t, 0.1).sum(), z_s)
    torch.testing.assert_close(gradient, (0.1 - q).float())


def test_wttm_refuses_predictions_of_other_classes_and_powers_that_are_none() -> None:
    teacher = Teacher(tiny.network("resnet14", classes=7), tiny.NORMALIZATION)
    with pytest.raises(ParamsError, match=r"wttm compares predictions, .*7 classes and the data set has 4"):
        wttm.Method(wttm.Config(), tiny.network(), teacher, tiny.card())
    for power in (0.0, 1.5):
        with pytest.raises(ValueError, match="power"):
            wttm.Config(power=power)
