"""Every method computes what its source computes: golden values, closed forms, invariances.

The golden values come from the reference implementations, run once on the inputs of golden.py.
"""

import pytest
import torch
from torch.nn import functional

from pipeline.distillation import afd, blocks, sakd
from pipeline.models.base import MapShape
from tests import tiny
from tests.golden import LABELS, G, fill, logits, stages_s, stages_t

GOLDEN = {"rtol": 1e-4, "atol": 0.0}


def close(came: torch.Tensor, expected: float | list[float]) -> None:
    torch.testing.assert_close(came.detach(), torch.tensor(expected), **GOLDEN)


def test_generator_gives_its_four_published_values() -> None:
    close(G((4,), 0.5), [0.479426, 0.764329, 0.945784, 0.999232])


def test_cross_entropy_golden() -> None:
    close(functional.cross_entropy(logits()[0], LABELS), 3.5776887)


def test_kd_golden() -> None:
    close(blocks.soft_kl(*logits(), temperature=4), 0.63965714)


def test_kd_is_zero_for_equal_logits_and_blind_to_a_shift() -> None:
    z_s, z_t = logits()
    assert blocks.soft_kl(z_s, z_s, 4).abs() < 1e-6
    torch.testing.assert_close(blocks.soft_kl(z_s + 3, z_t - 1, 4), blocks.soft_kl(z_s, z_t, 4))


def test_kd_at_temperature_one_is_cross_entropy_minus_entropy() -> None:
    z_s, z_t = (z.double() for z in logits())
    p = z_t.softmax(1)
    expected = (-(p * z_s.log_softmax(1)).sum(1) + (p * p.log()).sum(1)).mean()
    torch.testing.assert_close(blocks.soft_kl(z_s, z_t, 1), expected)


def _sakd_distances() -> list[torch.Tensor]:
    distances = []
    for f_s, f_t in zip(stages_s(), stages_t(), strict=True):
        lifted = fill(blocks.connector(f_s.shape[1], f_t.shape[1]))(f_s)
        refined = (blocks.unit(sakd.refine(blocks.energy(f))) for f in (lifted, f_t))
        distances.append(functional.mse_loss(*refined))
    return distances


def test_sakd_golden() -> None:
    distances = _sakd_distances()
    close(torch.stack(distances), [6.0801063e-04, 4.6917979e-05, 4.5272261e-03])
    close(blocks.weigh_stages(distances), 0.0047026877)


def test_sakd_refined_map_golden() -> None:
    close(sakd.refine(blocks.energy(stages_t()[2]))[0, 0, :4], [0.271579, 0.273984, 0.275799, 0.276399])


@pytest.mark.parametrize("connect_equal", [False, True])
def test_sakd_without_connectors_sees_no_difference_between_equal_networks(connect_equal: bool) -> None:
    method = tiny.method("sakd", "resnet8", "resnet8", connect_equal=connect_equal).train()
    method.student.load_state_dict(method.teacher.state_dict(), strict=False)  # its BNs use the batch: no running ones
    others = set(method.parameters()) - set(method.student.parameters())
    sad = method(tiny.batch()).terms["sad"]
    assert (bool(others), bool(sad > 1e-4)) == (connect_equal, connect_equal)


def test_sakd_refines_a_map_of_equal_rows_by_a_uniform_attention() -> None:
    # All affinities are equal, so both softmaxes are 1/H everywhere: R = G * (1 + 2 / (H * sqrt(H))).
    g = torch.full((2, 4, 4), 0.3)
    torch.testing.assert_close(sakd.refine(g), g * (1 + 2 / (4 * 4**0.5)))


def _afd_toy() -> tuple[afd.Attention, list[torch.Tensor], list[torch.Tensor]]:
    sizes_s = ((16, 16, 0.2), (16, 16, 0.3), (32, 8, 0.4))
    sizes_t = ((32, 16, 0.9), (32, 16, 1.0), (64, 8, 1.1), (64, 8, 1.2))
    maps_s, maps_t = ([G((4, c, h, h), start).relu() for c, h, start in sizes] for sizes in (sizes_s, sizes_t))
    shapes_s, shapes_t = (tuple(MapShape(*m.shape[1:]) for m in maps) for maps in (maps_s, maps_t))
    attention = fill(afd.Attention(shapes_s, shapes_t, query_dim=8))
    with torch.no_grad():
        attention.position_t.copy_(G((4, 8), 0.2))
        attention.position_s.copy_(G((3, 8), 0.3))
    return attention, maps_s, maps_t


def test_afd_golden() -> None:
    attention, maps_s, maps_t = _afd_toy()
    close(attention(maps_s, maps_t), 0.0014260598)


def test_afd_attention_rows_sum_to_one() -> None:
    attention, maps_s, maps_t = _afd_toy()
    weights = attention.weights([m.mean((2, 3)) for m in maps_s], [m.mean((2, 3)) for m in maps_t])
    assert weights.shape == (4, 4, 3)
    torch.testing.assert_close(weights.sum(2), torch.ones(4, 4))


def test_afd_distance_is_the_plain_mean_square_of_unit_maps() -> None:
    v_t, v_s = (functional.normalize(G((2, n, 25), c).relu(), dim=2) for n, c in ((3, 0.1), (2, 0.7)))
    expected = (v_t.unsqueeze(2) - v_s.unsqueeze(1)).square().mean(3)
    torch.testing.assert_close(blocks.mean_squared_distances(v_t, v_s), expected)


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        (("wrn_40_2", "wrn_16_2"), 543_488),
        (("resnet56", "resnet20"), 643_200),
        (("resnet110", "resnet32"), 674_944),
        (("resnet110", "wrn_16_1"), 627_328),
    ],
)
def test_afd_has_the_published_number_of_extra_parameters(pair: tuple[str, str], expected: int) -> None:
    from pipeline.models import base

    t, s = (base.shapes(base.build({"arch": arch, "num_classes": 100}), 32).blocks for arch in pair)
    attention = afd.Attention(blocks.thin(s), blocks.thin(t), query_dim=128)
    without_effect = 128 * len(blocks.thin(t))  # biases in front of a BN, which the published code has
    assert base.num_parameters(attention) + without_effect == expected


def test_afd_products_are_those_of_the_normed_bilinear_form() -> None:
    products = afd.NormedProducts(5, 8).double()
    with torch.no_grad():
        products.norm.weight.copy_(G((40,), 0.3))
        products.norm.bias.copy_(G((40,), 0.6))
    key, query = G((6, 3, 8), 0.1).double().relu(), G((6, 5, 8), 0.4).double()
    b = products.norm(products.linear(key.flatten(0, 1))).view(6, 3, 5, 8)
    came, expected = products(key, query), torch.einsum("bstd,btd->bts", b, query)
    torch.testing.assert_close(came, expected)
    grads = (torch.autograd.grad(x.cos().sum(), [*products.parameters()], retain_graph=True) for x in (came, expected))
    for of_ours, of_theirs in zip(*grads, strict=True):
        torch.testing.assert_close(of_ours, of_theirs)


@pytest.mark.parametrize("wanted", [(8, 8), (16, 4), (3, 5), (12, 1)])
def test_afd_resizes_as_adaptive_average_pooling_does(wanted: tuple[int, int]) -> None:
    energies = G((2, 3, 8, 7), 0.4)
    came = afd._resized(energies, torch.empty(2, 9, *wanted))
    torch.testing.assert_close(came, functional.adaptive_avg_pool2d(energies, wanted))


def test_afd_trains_though_its_first_call_was_for_inference_alone() -> None:
    afd._windows.cache_clear()
    energies = torch.rand(2, 3, 8, 8, requires_grad=True)
    for mode in (True, False):
        with torch.inference_mode(mode):
            resized = afd._resized(energies, torch.empty(2, 9, 4, 4))
    resized.sum().backward()
    assert energies.grad is not None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 16, 8, 8), (3, 32, 8, 8), (2, 5, 7, 3)])
def test_energy_and_average_are_those_of_autograd(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    maps = G(shape, 0.3).to(dtype).to(memory_format=torch.channels_last).requires_grad_()
    wide = maps.detach().double().requires_grad_()
    expected = wide.square().mean(1), wide.mean((2, 3))
    came = blocks.energy_and_average(maps)
    exact = dtype is torch.float64
    for ours, theirs in zip((*came, blocks.energy(maps)), (*expected, expected[0]), strict=True):
        assert ours.dtype is (dtype if exact else torch.float32)
        torch.testing.assert_close(ours.double(), theirs, rtol=0 if exact else 2**-7, atol=1e-12 if exact else 1e-3)
    for outputs, references in ((came, expected), ((blocks.energy(maps),), expected[:1])):
        (grad,) = torch.autograd.grad([(o * o.detach().cos()).sum() for o in outputs], maps)
        (reference,) = torch.autograd.grad([(o * o.detach().cos()).sum() for o in references], wide, retain_graph=True)
        assert grad.dtype is dtype
        torch.testing.assert_close(grad.double(), reference, rtol=0, atol=1e-12 if exact else 2e-3)
