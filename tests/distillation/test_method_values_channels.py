"""ICKD, CAT-KD and KDSVD compute what their sources compute of the channels of maps: golden values, invariances.

The golden values come from the reference implementations, run once on the inputs of golden.py.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.distillation import catkd, ickd, kdsvd
from pipeline.system.errors import ParamsError
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


# CAT-KD


@pytest.mark.parametrize(
    ("map_px", "normalize", "expected"), [(2, False, 0.01278521), (2, True, 0.1180003), (4, True, 0.02945766)]
)
def test_catkd_golden(map_px: int, normalize: bool, expected: float) -> None:
    # Ten channels, each the map of one class.
    z_s, z_t = G((4, 10, 8, 8), 0.2, 3), G((4, 10, 8, 8), 0.9, 2)
    a, b = (catkd.class_maps(z, torch.eye(10), map_px) for z in (z_s, z_t))
    close(catkd.map_distance(a, b, normalize), expected)


@pytest.mark.parametrize("normalize", [False, True])
def test_catkd_term_is_that_of_class_maps_that_are_made_whole(normalize: bool) -> None:
    method = golden_method("catkd", normalize=normalize, attention_weight=3.0)
    s, t = golden_features("act", "act")
    whole = [
        functional.conv2d(f.stages[-1].act, network.fc.weight[:, :, None, None])
        for f, network in ((s, method.student), (t, method.teacher))
    ]
    a, b = (z.unflatten(3, (2, 4)).unflatten(2, (2, 4)).mean((3, 5)) for z in whole)
    if normalize:
        a, b = (z / z.square().sum((2, 3), keepdim=True).sqrt() for z in (a, b))
    came = method.terms(s, t, golden_batch())
    assert list(came) == ["attention"]
    torch.testing.assert_close(came["attention"], 3 * (a - b).square().mean())


@pytest.mark.parametrize("arch", ["resnet8", "wrn_16_1", "vgg8"])
def test_catkd_class_maps_average_to_the_logits_without_the_bias(arch: str) -> None:
    network = tiny.network(arch).eval()
    with torch.no_grad():
        network.fc.bias.copy_(G((tiny.CLASSES,), 0.4))
        features = network.features(tiny.batch().images)
        for map_px in (1, 2, 4):
            maps = catkd.class_maps(features.stages[-1].act, network.fc.weight, map_px)
            torch.testing.assert_close(maps.mean((2, 3)) + network.fc.bias, features.logits)


def test_catkd_normalised_is_blind_to_the_size_of_a_class_map() -> None:
    a, b = G((2, 4, 2, 2), 0.2), G((2, 4, 2, 2), 0.9)
    sizes = (2 + G((2, 4), 0.3))[:, :, None, None]
    torch.testing.assert_close(catkd.map_distance(sizes * a, b / sizes, True), catkd.map_distance(a, b, True))
    assert catkd.map_distance(a, 3 * a, True) < 1e-12
    # Unit maps of opposite sign: |2 a|^2 = 4 of each class, over 4 places.
    close(catkd.map_distance(a, -a, True), 1.0)


def test_catkd_trains_the_students_classifier_by_its_weights_alone() -> None:
    method = tiny.method("catkd").train()
    method(tiny.batch()).terms["attention"].backward()
    assert method.student.fc.weight.grad is not None
    assert method.student.fc.weight.grad.abs().sum() > 0
    assert method.student.fc.bias.grad is None
    assert method.teacher.fc.weight.grad is None


@pytest.mark.parametrize(
    ("student", "teacher", "role"),
    [("mobilenet_v2_half", "resnet14", "student"), ("resnet8", "mobilenet_v2_half", "teacher")],
)
def test_catkd_refuses_a_classifier_that_reads_no_average(student: str, teacher: str, role: str) -> None:
    with pytest.raises(ParamsError, match=rf"of the {role}'s last map .* in mobilenet_v2_half more than an average"):
        tiny.method("catkd", student, teacher)


# KDSVD

SVD_SIZES = ((16, 16), (32, 8), (64, 4))


def svd_maps(start: float) -> list[Tensor]:
    return [G((4, c, h, h), start + 0.1 * stage).relu() for stage, (c, h) in enumerate(SVD_SIZES)]


def svd_terms(maps_s: list[Tensor], vectors_t: list[Tensor]) -> Tensor:
    """What each stage from the second on adds to the loss: (2,)."""
    vectors_s = [kdsvd.nearest_vectors(m, t) for m, t in zip(maps_s, vectors_t, strict=True)]
    return torch.stack([kdsvd.change_distance(vectors_s[i : i + 2], vectors_t[i : i + 2]) for i in range(2)])


def test_kdsvd_golden_value_and_gradient() -> None:
    maps_s, vectors_t = svd_maps(0.2), [kdsvd.main_vectors(m) for m in svd_maps(0.9)]
    for maps in maps_s:
        maps.requires_grad_()
    came = svd_terms(maps_s, vectors_t)
    torch.testing.assert_close(came.detach().float(), torch.tensor([1.17600e-4, 2.03353e-4]), **GOLDEN)
    norms = torch.stack([g.norm() for g in torch.autograd.grad(came.sum(), maps_s)])
    torch.testing.assert_close(norms, torch.tensor([2.88309e-5, 5.42065e-4, 2.77722e-4]), **GOLDEN)


def test_kdsvd_sign_of_a_teachers_vector_matters_so_it_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors_t = [kdsvd.main_vectors(m) for m in svd_maps(0.9)]
    expected = svd_terms(svd_maps(0.2), vectors_t)
    flipped = svd_terms(svd_maps(0.2), [vectors_t[0], -vectors_t[1], vectors_t[2]])
    torch.testing.assert_close(flipped.float(), torch.tensor([1.534957e-3, 5.029132e-3]), **GOLDEN)
    eigh = torch.linalg.eigh

    def other_signs(products: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = eigh(products)
        return values, vectors * torch.where(G((len(values), 1, values.shape[1]), 0.3) > 0, 1, -1)

    monkeypatch.setattr(kdsvd.linalg, "eigh", other_signs)
    torch.testing.assert_close(svd_terms(svd_maps(0.2), [kdsvd.main_vectors(m) for m in svd_maps(0.9)]), expected)


@pytest.mark.parametrize(("wanted", "taken"), [(1, 1), (5, 5), (4, 0), (2, 0)])
def test_kdsvd_takes_the_nearest_of_the_first_four_vectors(wanted: int, taken: int) -> None:
    # X^T X is diagonal: its vectors are the axes, and those of channels 1, 3, 5 and 0 come first.
    maps = torch.diag(torch.tensor([3.0, 6.0, 1.0, 5.0, 2.0, 4.0])).view(1, 6, 2, 3)
    target = torch.full((1, 6), -0.1, dtype=torch.float64)
    target[0, 0], target[0, wanted] = -0.2, -0.9
    expected = torch.zeros(1, 6, dtype=torch.float64)
    expected[0, taken] = -1
    torch.testing.assert_close(kdsvd.nearest_vectors(maps, target), expected)


def test_kdsvd_gradient_is_that_of_the_vectors_themselves() -> None:
    maps_t, maps_s = G((2, 5, 2, 3), 0.9).double(), (G((2, 5, 2, 3), 0.2).double() ** 3).requires_grad_()
    target = kdsvd.main_vectors(maps_t)
    assert torch.autograd.gradcheck(lambda maps: kdsvd.nearest_vectors(maps, target), (maps_s,))


@pytest.mark.parametrize("maps", [torch.zeros(1, 4, 2, 2), torch.eye(4).view(1, 4, 2, 2), torch.ones(1, 4, 2, 2)])
def test_kdsvd_gradient_is_finite_where_singular_values_are_equal(maps: Tensor) -> None:
    maps = maps.clone().requires_grad_()
    vector = kdsvd.nearest_vectors(maps, torch.full((1, 4), 0.5, dtype=torch.float64))
    vector[:, 0].sum().backward()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()


def test_kdsvd_of_a_student_equal_to_its_teacher_and_of_a_scaled_one_is_zero() -> None:
    maps = svd_maps(0.9)
    vectors = [kdsvd.main_vectors(m) for m in maps]
    scales = torch.tensor([3.0, 0.2, 1.0, 7.0]).view(4, 1, 1, 1)
    assert svd_terms([scales * m for m in maps], vectors).max() < 1e-15


def test_kdsvd_refuses_stages_of_other_channels() -> None:
    said = r"student have \[16, 32, 64\] channels and those of the teacher \[32, 64, 128\]"
    with pytest.raises(ParamsError, match=said):
        tiny.method("kdsvd", "resnet8", "wrn_16_2")
    with pytest.raises(ParamsError, match=r"teacher \[64, 128, 256, 512\]"):
        tiny.method("kdsvd", "resnet8", "resnet18")
