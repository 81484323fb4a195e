"""Values of fitnet, at, sp, pkt, vid and nst: golden values, closed forms, invariances.

The golden values go through `terms` itself: resnet8 and wrn_16_2 have the channels and sizes of the golden maps. Those
of nst come from its definition, a loop over all pairs of channels in float64.
"""

import math

import pytest
import torch
from torch import Tensor, nn

from pipeline.distillation import at, blocks, fitnet, nst, pkt, sp, vid
from pipeline.distillation.base import Method
from pipeline.distillation.batch import Batch
from pipeline.models.base import Features, MapShape, Tap
from pipeline.system.errors import ParamsError
from tests import tiny
from tests.golden import LABELS, G, fill, logits, pooled, stages_s, stages_t

GOLDEN = {"rtol": 1e-4, "atol": 0.0}
NAMES = ("fitnet", "at", "sp", "pkt", "vid", "nst")
AT_STAGES = (8.7424542e-06, 1.1353007e-04, 1.1187251e-05)
NST_STAGES = (0.0045203736, 0.0094170551, 0.00028268621)


def close(came: Tensor, expected: float) -> None:
    torch.testing.assert_close(came.detach(), torch.tensor(expected), **GOLDEN)


def features(maps: list[Tensor], embedding: Tensor, z: Tensor) -> Features:
    stages = tuple(Tap(m, m, m) for m in maps)
    return Features(stages[0], stages, stages, embedding, z)


def golden_terms(method: Method, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """What the method computes from the golden maps, given in `dtype`."""
    (h_s, h_t), (z_s, z_t) = pooled(), logits()
    s = features([m.to(dtype) for m in stages_s()], h_s, z_s)
    t = features([m.to(dtype) for m in stages_t()], h_t, z_t)
    images = torch.zeros(4, 3, 32, 32)
    return fill(method).train().terms(s, t, Batch(images, LABELS, torch.arange(4), 0.5, 1))


def golden_method(name: str, **config: object) -> Method:
    return tiny.method(name, "resnet8", "wrn_16_2", **config)


@pytest.mark.parametrize(
    ("name", "term", "weight", "expected"),
    [
        ("fitnet", "hint", 100, 0.47279078),
        ("at", "attention", 1000, 1.3345978e-04),
        ("sp", "similarity", 3000, 0.11817583),
        ("pkt", "affinity", 30000, 0.016862322),
        ("nst", "selectivity", 50, 0.014220115),
    ],
)
def test_golden_with_the_weights_of_the_source(name: str, term: str, weight: float, expected: float) -> None:
    terms = golden_terms(golden_method(name))
    assert set(terms) == {"ce", term}
    close(terms["ce"], 3.5776887)
    close(terms[term], weight * expected)


def test_at_golden_stage_by_stage() -> None:
    for f_s, f_t, expected in zip(stages_s(), stages_t(), AT_STAGES, strict=True):
        close(at.distance(f_s, f_t), expected)


def test_nst_golden_stage_by_stage() -> None:
    for f_s, f_t, expected in zip(stages_s(), stages_t(), NST_STAGES, strict=True):
        close(nst.discrepancy(f_s, f_t), expected)


def test_vid_golden_at_stage_3_and_the_sum_over_stages() -> None:
    method = golden_method("vid", information_weight=2.0)
    terms = golden_terms(method)
    stages = [g(a, b) for g, a, b in zip(method.gaussians, stages_s(), stages_t(), strict=True)]
    close(stages[2], 0.82972133)
    assert set(terms) == {"ce", "information"}
    torch.testing.assert_close(terms["information"], 2 * torch.stack(stages).sum())
    assert vid.Config().information_weight == 1


@pytest.mark.parametrize("name", NAMES)
def test_maps_in_bf16_are_summed_in_float32(name: str) -> None:
    # bf16 inputs carry an error of 2^-9 each. Summed in bf16 too, the small distances of at and sp would be noise.
    exact, came = (golden_terms(golden_method(name), dtype) for dtype in (torch.float32, torch.bfloat16))
    for term in exact:
        assert came[term].dtype is torch.float32
        torch.testing.assert_close(came[term], exact[term], rtol=0.01, atol=0.0)


# Networks of other depths and sizes


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("student", "teacher"), [("resnet8", "resnet18"), ("resnet18", "wrn_10_1")])
def test_networks_with_other_stages_and_sizes_are_served(name: str, student: str, teacher: str) -> None:
    # At 32 pixels the stages of resnet18 are 8, 4, 2 and 1 wide, those of the others 32, 16 and 8.
    method = tiny.method(name, student, teacher).train()
    terms = method(tiny.batch()).terms
    torch.stack(list(terms.values())).sum().backward()
    assert all(term.isfinite() for term in terms.values())
    aside = [p for n, p in method.named_parameters() if not n.startswith("student.")]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in aside)


@pytest.mark.parametrize("name", ["at", "vid", "nst"])
def test_stages_left_out_are_warned_about(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.method(name, "resnet8", "resnet18")
    assert "the student has 3 and the teacher 4, so only the first 3 of each" in capsys.readouterr().err
    tiny.method(name, "resnet8", "resnet14")
    assert capsys.readouterr().err == ""


def test_fitnet_refuses_a_stage_that_one_network_lacks() -> None:
    with pytest.raises(ParamsError, match=r"student has 3 stages and the teacher 4\. Set hint_stage to 3 or less"):
        tiny.method("fitnet", "resnet8", "resnet18", hint_stage=4)
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        fitnet.Config(hint_stage=0)


def test_the_larger_map_is_averaged_and_keeps_its_precision() -> None:
    large, small = G((2, 3, 8, 8), 0.1), G((2, 5, 4, 4), 0.2).bfloat16()
    for swap in (False, True):
        a, b = blocks.pool_larger(small, large)[::-1] if swap else blocks.pool_larger(large, small)
        torch.testing.assert_close(a, large.unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5)))
        assert b is small
    assert blocks.pool_larger(large.bfloat16(), small)[0].dtype is torch.bfloat16


# FitNet


@pytest.mark.parametrize(
    ("height_s", "height_t", "kind", "kernel", "height"),
    [
        (16, 16, nn.Conv2d, 1, 16),
        (16, 8, nn.Conv2d, 3, 8),
        (8, 16, nn.ConvTranspose2d, 4, 16),
        (16, 5, nn.Conv2d, 12, 5),
        (16, 15, nn.Conv2d, 2, 15),
        (4, 16, nn.Conv2d, 3, 4),  # no rule brings it up: the teacher is pooled
        (7, 8, nn.Conv2d, 3, 7),
    ],
)
def test_fitnet_regressor_by_size(height_s: int, height_t: int, kind: type, kernel: int, height: int) -> None:
    regress = fitnet.regressor(MapShape(3, height_s, height_s), MapShape(5, height_t, height_t))
    assert type(regress[0]) is kind
    assert regress[0].kernel_size == (kernel, kernel)
    assert regress[0].bias is not None
    assert regress(G((2, 3, height_s, height_s), 0.1)).shape == (2, 5, height, height)


def test_fitnet_with_a_blind_regressor_is_the_mean_square_of_the_chosen_stage() -> None:
    for stage in (1, 2, 3):
        method = golden_method("fitnet", hint_weight=1.0, hint_stage=stage)
        (_, h_t), (z_s, z_t) = pooled(), logits()
        zeros = features([torch.zeros_like(m) for m in stages_s()], h_t, z_s)
        with torch.no_grad():
            for parameter in method.regressor.parameters():
                parameter.zero_()
        batch = Batch(torch.zeros(4, 3, 32, 32), LABELS, torch.arange(4), 0.5, 1)
        came = method.terms(zeros, features(stages_t(), h_t, z_t), batch)["hint"]
        torch.testing.assert_close(came, stages_t()[stage - 1].square().mean())


# AT


def test_at_is_zero_for_equal_maps_and_blind_to_scale_and_to_the_order_of_channels() -> None:
    f = stages_s()[1]
    assert at.distance(f, f) == 0
    f_t = stages_t()[1]
    torch.testing.assert_close(at.distance(7 * f.flip(1), 0.1 * f_t), at.distance(f, f_t))


def test_at_is_two_over_the_pixels_where_student_and_teacher_look_elsewhere() -> None:
    f_s, f_t = torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4)
    f_s[:, 0, 0, 0] = f_t[:, 1, 3, 2] = 9
    torch.testing.assert_close(at.distance(f_s, f_t), torch.tensor(2 / 16))


def test_at_averages_before_it_squares() -> None:
    # A checkerboard of +1 and -1 averages to nothing; squared first, it would equal the flat map.
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4).expand(2, 3, 8, 8)
    flat = torch.ones(2, 3, 4, 4)
    torch.testing.assert_close(at.distance(board, flat), torch.tensor(1 / 16))
    torch.testing.assert_close(at.distance(flat, board), torch.tensor(1 / 16))


# SP


def test_sp_is_blind_to_scale_and_to_the_order_of_features() -> None:
    f = stages_s()[2]
    assert (sp.similarities(f) - sp.similarities(f.clone())).abs().max() == 0
    torch.testing.assert_close(sp.similarities(3 * f.flip(1)), sp.similarities(f))


def test_sp_of_two_images_that_are_alike_for_one_network_and_unlike_for_the_other() -> None:
    unlike, alike = torch.eye(2).view(2, 2, 1, 1), torch.ones(2, 3, 1, 1)
    distance = (sp.similarities(unlike) - sp.similarities(alike)).square().mean()
    torch.testing.assert_close(distance, torch.tensor((2 - math.sqrt(2)) / 2))


# PKT


def test_pkt_is_zero_for_equal_embeddings_and_blind_to_scale_and_rotation() -> None:
    h_s, h_t = pooled()
    p = pkt.neighbours(h_s)
    torch.testing.assert_close(p.sum(1), torch.ones(4))
    assert pkt.divergence(p, p) == 0
    rotation = torch.linalg.qr(G((64, 64), 0.3) + torch.eye(64))[0]
    torch.testing.assert_close(pkt.neighbours(5 * h_s @ rotation), p)
    assert pkt.divergence(p, pkt.neighbours(h_t)) > 0


def test_pkt_of_two_images_that_are_alike_for_the_teacher_and_unlike_for_the_student() -> None:
    p_s, p_t = pkt.neighbours(torch.eye(2)), pkt.neighbours(torch.ones(2, 3))
    torch.testing.assert_close(p_s, torch.tensor([[2.0, 1.0], [1.0, 2.0]]) / 3)
    torch.testing.assert_close(pkt.divergence(p_s, p_t), torch.tensor(math.log(9 / 8) / 4))


@pytest.mark.parametrize("name", ["at", "sp", "pkt", "nst"])
def test_a_student_equal_to_its_teacher_has_nothing_to_learn(name: str) -> None:
    method = tiny.method(name, "resnet8", "resnet8").eval()
    method.student.load_state_dict(method.teacher.state_dict())
    with torch.inference_mode():
        terms = method(tiny.batch()).terms
    assert max(float(term.abs()) for term_name, term in terms.items() if term_name != "ce") < 1e-6


# VID


def test_vid_starts_with_variance_five_and_trains_it() -> None:
    method = golden_method("vid")
    for gaussian in method.gaussians:
        torch.testing.assert_close(gaussian.variance(), torch.full_like(gaussian.r, 5.0))
    owned = {id(p) for p in method.parameters()}
    assert all(id(gaussian.r) in owned for gaussian in method.gaussians)


def test_vid_closed_form_and_best_variance() -> None:
    gaussian = vid.Gaussian(3, 5)
    with torch.no_grad():
        gaussian.mean[4].weight.zero_()
    f_s, f_t = G((2, 3, 4, 4), 0.1), torch.full((2, 5, 4, 4), 2.0)
    torch.testing.assert_close(gaussian(f_s, f_t), torch.tensor((4 / 5 + math.log(5)) / 2))
    # The variance that the residuals have, 4, is the best one: there the gradient vanishes.
    with torch.no_grad():
        gaussian.r.fill_(math.log(math.expm1(4 - 1e-5)))
    gaussian(f_s, f_t).backward()
    assert gaussian.r.grad.abs().max() < 1e-7


def test_vid_of_a_perfect_prediction_is_the_entropy_of_its_variance() -> None:
    gaussian = vid.Gaussian(5, 5)
    with torch.no_grad():
        for index in (0, 2, 4):
            gaussian.mean[index].weight.copy_(torch.eye(5).view(5, 5, 1, 1))
    f = G((2, 5, 4, 4), 0.1).relu()
    torch.testing.assert_close(gaussian(f, f), torch.tensor(math.log(5) / 2))


# NST

# With the few channels below, pairs of channels are compared on maps of 8 x 8, and pairs of places on 2 x 2.
NST_HEIGHTS = (2, 8)


def nst_by_its_definition(maps_s: Tensor, maps_t: Tensor) -> float:
    """Every pair of channels of every image, one by one, in float64."""

    def kernels(x: Tensor, y: Tensor) -> float:
        pairs = [(c.flatten(), d.flatten()) for c in x for d in y]
        return sum(float(c @ d) ** 2 / float(c @ c) / float(d @ d) for c, d in pairs) / len(pairs)

    images = list(zip(maps_s.double(), maps_t.double(), strict=True))
    return sum(kernels(s, s) + kernels(t, t) - 2 * kernels(s, t) for s, t in images) / len(images)


@pytest.mark.parametrize("height", NST_HEIGHTS)
def test_nst_is_its_definition(height: int) -> None:
    f_s, f_t = G((2, 3, height, height), 0.2), G((2, 4, height, height), 0.9)
    close(nst.discrepancy(f_s, f_t), nst_by_its_definition(f_s, f_t))
    close(nst.discrepancy(f_t, f_s), nst_by_its_definition(f_s, f_t))


def test_nst_by_hand() -> None:
    # Student (1, 0), (0, 1); teacher (0.6, 0.8) alone: (1 + 0 + 0 + 1) / 4 + 1 - 2 * (0.36 + 0.64) / 2 = 1 / 2.
    f_s, f_t = torch.tensor([[7.0, 0.0], [0.0, 0.2]]), torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(nst.discrepancy(f_s.view(1, 2, 1, 2), f_t.view(1, 1, 1, 2)), torch.tensor(0.5))


@pytest.mark.parametrize("height", NST_HEIGHTS)
def test_nst_is_blind_to_scale_sign_order_and_repetition_of_channels(height: int) -> None:
    f_s, f_t = G((2, 3, height, height), 0.2), G((2, 4, height, height), 0.9)
    expected = nst.discrepancy(f_s, f_t)
    scales = torch.tensor([5.0, -0.1, 30.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(nst.discrepancy(scales * f_s, f_t), expected)
    torch.testing.assert_close(nst.discrepancy(f_s, f_t[:, [2, 0, 3, 1]]), expected)
    torch.testing.assert_close(nst.discrepancy(f_s.repeat(1, 2, 1, 1), f_t), expected)
    torch.testing.assert_close(nst.discrepancy(f_s, f_s.flip(1)), torch.tensor(0.0))


@pytest.mark.parametrize("height", NST_HEIGHTS)
def test_nst_is_two_where_all_channels_look_at_one_place_and_the_teachers_at_another(height: int) -> None:
    f_s, f_t = torch.zeros(2, 3, height, height), torch.zeros(2, 5, height, height)
    f_s[:, :, 0, 0] = f_t[:, :, 1, 1] = 9
    torch.testing.assert_close(nst.discrepancy(f_s, f_t), torch.tensor(2.0))


@pytest.mark.parametrize("height", NST_HEIGHTS)
def test_nst_counts_dead_channels_and_gives_them_no_gradient(height: int) -> None:
    f_s, f_t = torch.zeros(1, 4, height, height), torch.zeros(1, 1, height, height)
    f_s[:, 0, 0, 0] = f_t[:, 0, 0, 0] = 9
    f_s.requires_grad_()
    came = nst.discrepancy(f_s, f_t)
    torch.testing.assert_close(came.detach(), torch.tensor(1 / 16 + 1 - 2 / 4))
    (gradient,) = torch.autograd.grad(came, f_s)
    assert gradient.isfinite().all()
    assert (gradient[:, 1:] == 0).all()


def test_nst_gradient_is_that_of_its_definition() -> None:
    for height in NST_HEIGHTS:
        f_s, f_t = G((2, 3, height, height), 0.2).requires_grad_(), G((2, 4, height, height), 0.9)
        (gradient,) = torch.autograd.grad(nst.discrepancy(f_s, f_t), f_s)
        step = 1e-3 * G(f_s.shape, 1.7)
        above, below = (nst_by_its_definition(f_s.detach() + d, f_t) for d in (step, -step))
        torch.testing.assert_close((gradient * step).sum(), torch.tensor((above - below) / 2), rtol=1e-3, atol=1e-9)
