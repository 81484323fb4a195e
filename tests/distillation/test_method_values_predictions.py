"""WTTM and SDD compute what their sources compute of predictions: golden values, closed forms, invariances.

The golden values come from the reference implementations, run once on the inputs of golden.py.
"""

import dataclasses

import pytest
import torch
from torch import Tensor

from pipeline.distillation import blocks, sdd, wttm
from pipeline.distillation.base import Teacher
from pipeline.distillation.batch import Batch
from pipeline.models.base import Features, Tap
from pipeline.system.errors import ParamsError
from tests import tiny
from tests.golden import LABELS, G, logits

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


# SDD


def regions(num: int) -> tuple[Tensor, Tensor]:
    """Logits of student and teacher (4, N, 10), the whole image's first."""
    return G((4, 10, num), 0.5, 3).transpose(1, 2), G((4, 10, num), 1.1, 4).transpose(1, 2)


@pytest.mark.parametrize(
    ("num", "double", "expected"),
    [
        (5, 2, {"kd": 1.232453, "dkd": 7.248314, "nkd": 228.3461}),
        (21, 24, {"kd": 1.423874, "dkd": 8.704921, "nkd": 267.2802}),
    ],
)
def test_sdd_golden(num: int, double: int, expected: dict[str, float]) -> None:
    z_s, z_t = regions(num)
    assert sdd.region_weights(z_t, LABELS).sum() == 4 * num + double
    for kind, value in expected.items():
        config = sdd.Config.model_validate({"kind": kind, "nontarget_weight": 6.0})
        close(sdd.compare(z_s, z_t, LABELS, config), value)


def test_sdd_regions_lie_row_by_row_and_read_the_average_of_their_places() -> None:
    # Channels are the two coordinates of a place; the classifier adds a bias to each.
    row, column = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    fc = torch.nn.Linear(2, 2)
    with torch.no_grad():
        fc.weight.copy_(torch.eye(2))
        fc.bias.copy_(torch.tensor([10.0, 100.0]))
    came = sdd.region_logits(torch.stack([row, column])[None], fc, 3)[0] - fc.bias
    ends = [[0.5, 0.5], [0.5, 2.5], [2.5, 0.5], [2.5, 2.5]]
    places = [[float(r), float(c)] for r in range(4) for c in range(4)]
    torch.testing.assert_close(came, torch.tensor([[1.5, 1.5], *ends, *places]))


@pytest.mark.parametrize("num_scales", [1, 2, 3])
@pytest.mark.parametrize("arch", ["resnet8", "wrn_16_1"])
def test_sdd_first_region_gives_the_logits_and_all_of_a_scale_average_to_them(arch: str, num_scales: int) -> None:
    network, batch = tiny.network(arch).eval(), tiny.batch()
    with torch.no_grad():
        found = network.features(batch.images)
        z = sdd.region_logits(found.stages[-1].act, network.fc, num_scales)
    for part in z.split([4**scale for scale in range(num_scales)], 1):
        torch.testing.assert_close(part.mean(1), found.logits)


def test_sdd_of_one_region_is_plain_kd_and_plain_dkd() -> None:
    z_s, z_t = logits()
    kd = sdd.compare(z_s[:, None], z_t[:, None], LABELS, sdd.Config(kind="kd", temperature=2.0))
    torch.testing.assert_close(kd, blocks.soft_kl(z_s, z_t, 2))
    method = tiny.method("sdd", num_scales=1, warmup_epochs=0).train()
    dkd = tiny.method("dkd", warmup_epochs=0).train()
    batch = tiny.batch()
    expected = dkd(batch).terms
    torch.testing.assert_close(method(batch).terms["regions"], expected["tckd"] + expected["nckd"])


def test_sdd_counts_twice_where_a_region_and_the_whole_are_not_both_right_or_both_wrong() -> None:
    right, wrong = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    z_t = torch.stack([torch.stack(row) for row in ([right, right, wrong], [wrong, right, wrong])])
    assert sdd.region_weights(z_t, torch.tensor([1, 1])).tolist() == [[1, 1, 2], [1, 2, 1]]
    assert sdd.region_weights(z_t[:, :1].expand(2, 3, 2), torch.tensor([1, 1])).tolist() == [[1] * 3] * 2


def test_sdd_nkd_is_a_cross_entropy_that_equal_networks_do_not_bring_to_nothing() -> None:
    z = logits()[0]
    p, q = (z / 4).softmax(1), z.softmax(1)[torch.arange(4), LABELS]
    expected = -3 * q * q.log() - 0.5 * 16 * (p * p.log()).sum(1)
    config = sdd.Config(kind="nkd", target_weight=3, nontarget_weight=0.5)
    torch.testing.assert_close(sdd.distances(z, z, LABELS, config), expected)
    assert sdd.distances(z, z, LABELS, sdd.Config()).abs().max() < 1e-5


@pytest.mark.parametrize(("epoch", "share"), [(0, 1 / 20), (9, 0.5), (19, 1.0), (200, 1.0)])
def test_sdd_grows_over_the_first_twenty_epochs(epoch: int, share: float) -> None:
    whole = tiny.method("sdd", region_weight=2.0, warmup_epochs=0).train()(tiny.batch()).terms
    came = tiny.method("sdd").train()(dataclasses.replace(tiny.batch(), epoch=epoch)).terms
    torch.testing.assert_close(2 * came["regions"], share * whole["regions"])
    torch.testing.assert_close(came["ce"], whole["ce"])


@pytest.mark.parametrize(
    ("student", "teacher", "num_scales", "said"),
    [
        ("mobilenet_v2_half", "resnet14", 1, "the student's classifier .* in mobilenet_v2_half more than an average"),
        ("resnet8", "mobilenet_v2_half", 1, "the teacher's classifier .* in mobilenet_v2_half more than an average"),
        ("resnet8", "resnet14", 4, r"into 8 x 8 regions \(num_scales 4\), but the student's map is 4 x 4"),
        ("resnet8", "resnet18_cifar", 3, r"into 4 x 4 regions \(num_scales 3\), but the teacher's map is 2 x 2"),
    ],
)
def test_sdd_refuses_what_has_no_predictions_of_regions(student: str, teacher: str, num_scales: int, said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        tiny.method("sdd", student, teacher, num_scales=num_scales)
