"""ICKD computes what its source computes of the channels of the last map: golden values, closed forms, invariances.

The golden values come from the reference implementation, run once on the inputs of golden.py.
"""

import math

import torch
from torch import Tensor

from pipeline.distillation import ickd
from tests import tiny
from tests.distillation.test_method_values_stages import golden_batch, golden_features, golden_method
from tests.golden import G

GOLDEN = {"rtol": 1e-4, "atol": 0.0}


def close(came: Tensor, expected: float) -> None:
    torch.testing.assert_close(came.detach(), torch.tensor(expected), **GOLDEN)


# ICKD


def test_ickd_golden() -> None:
    terms = golden_method("ickd").terms(*golden_features("act", "act"), golden_batch())
    assert list(terms) == ["correlation"]
    close(terms["correlation"], 2.5 * 0.7021840)


def test_ickd_by_hand() -> None:
    # Channels of the one look at different places; of the other at the same. Rows: (1, 0), (0, 1); all 1 / sqrt(2).
    apart, alike = torch.tensor([[7.0, 0.0], [0.0, 7.0]]), torch.tensor([[3.0, 0.0], [3.0, 0.0]])
    torch.testing.assert_close(ickd.likenesses(apart.view(1, 2, 1, 2))[0], torch.eye(2))
    torch.testing.assert_close(ickd.likenesses(alike.view(1, 2, 1, 2))[0], torch.full((2, 2), math.sqrt(0.5)))
    # A channel that is twice as large weighs more in each row.
    rows = ickd.likenesses(torch.tensor([[1.0, 1.0], [2.0, 2.0]]).view(1, 2, 2, 1))[0]
    torch.testing.assert_close(rows, torch.tensor([[1.0, 2.0], [1.0, 2.0]]) / math.sqrt(5))


def test_ickd_is_blind_to_the_scale_of_an_image_and_to_the_order_of_places() -> None:
    maps = G((3, 5, 4, 6), 0.9)
    expected = ickd.likenesses(maps)
    scales = torch.tensor([5.0, 0.1, 30.0]).view(3, 1, 1, 1)
    torch.testing.assert_close(ickd.likenesses(scales * maps), expected)
    places = torch.arange(24).roll(7).flip(0)
    torch.testing.assert_close(ickd.likenesses(maps.flatten(2)[:, :, places].view(3, 5, 6, 4)), expected)
    scaled = maps * torch.tensor([1.0, 2, 1, 1, 1]).view(1, 5, 1, 1)
    assert (ickd.likenesses(scaled) - expected).abs().max() > 0.1


def test_ickd_of_a_student_whose_lifted_map_is_the_teachers_is_zero() -> None:
    method = golden_method("ickd").eval()
    s, t = golden_features("act", "act")
    with torch.no_grad():
        lifted = method.connector(s.stages[-1].act)
        tap = t.stages[-1]._replace(act=3 * lifted)
        t = type(t)(t.stem, t.blocks, (*t.stages[:-1], tap), t.pooled, t.logits)
        assert float(method.terms(s, t, golden_batch())["correlation"]) < 1e-10


def test_ickd_rows_of_dead_channels_are_zero_and_give_finite_gradients() -> None:
    maps = G((2, 3, 4, 4), 0.4)
    maps[:, 1] = 0
    maps.requires_grad_()
    rows = ickd.likenesses(maps)
    rows.square().sum(2).sin().sum().backward()
    assert (rows[:, 1] == 0).all()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()


def test_ickd_serves_maps_of_other_sizes_and_a_teacher_of_more_channels() -> None:
    method = tiny.method("ickd", "resnet8", "resnet18").train()
    assert method.connector[0].weight.shape[:2] == (512, 64)
    terms = method(tiny.batch(4)).terms
    assert terms["correlation"] > 0
