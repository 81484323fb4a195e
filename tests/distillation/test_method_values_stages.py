"""OFD, ReviewKD and SRRL compute what their sources compute: golden values, closed forms, invariances.

The golden values come from the reference implementations, run once on the inputs of golden.py.
"""

import math

import pytest
import torch
from torch import nn

from pipeline.distillation import ofd, reviewkd
from pipeline.distillation.base import Method, Teacher, find
from pipeline.distillation.batch import Batch
from pipeline.models.base import Features, Tap
from pipeline.system.errors import ParamsError
from tests import tiny
from tests.golden import LABELS, G, fill, logits, pooled, stages_s, stages_t

GOLDEN = {"rtol": 1e-4, "atol": 0.0}
OURS = ("ofd", "reviewkd", "srrl")
TERMS = {"ofd": {"margin"}, "reviewkd": {"review"}, "srrl": {"feature", "regression"}}


def close(came: torch.Tensor, expected: float | list[float]) -> None:
    torch.testing.assert_close(came.detach(), torch.tensor(expected), **GOLDEN)


def golden_method(name: str, **config: object) -> Method:
    """On networks with the stage sizes of golden.py, ten classes; convolutions and linear layers hold its numbers."""
    module = find(name)
    teacher = Teacher(fill(tiny.network("wrn_16_2", classes=10)).eval(), tiny.NORMALIZATION)
    student = tiny.network("resnet8", classes=10)
    # The method's own terms alone, by a way round the check that the classifier learns.
    settings = module.Config(**config).model_copy(update={"ce_weight": 0.0})
    made: Method = module.Method(settings, student, teacher, tiny.card(classes=10))
    return fill(made).train()


def golden_batch(epoch: int = 100) -> Batch:
    return Batch(torch.zeros(4, 3, 32, 32), LABELS, torch.arange(4), progress=0.5, epoch=epoch)


def features(form: str, maps: list[torch.Tensor], pooled: torch.Tensor, logits: torch.Tensor) -> Features:
    """Taps hold the maps in one form; the other two are poisoned, so that a method that reads them gives nan."""
    taps = tuple(Tap(*(m if name == form else torch.full_like(m, math.nan) for name in Tap._fields)) for m in maps)
    return Features(taps[0], taps, taps, pooled, logits)


def golden_features(form_s: str, form_t: str) -> tuple[Features, Features]:
    return (
        features(form_s, stages_s(), pooled()[0], logits()[0]),
        features(form_t, stages_t(), pooled()[1], logits()[1]),
    )


def norm(weight: torch.Tensor, bias: torch.Tensor) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(len(weight))
    with torch.no_grad():
        made.weight.copy_(weight)
        made.bias.copy_(bias)
    return made


GOLDEN_NORM = norm(1 + 0.5 * G((128,), 0.4), G((128,), 0.6))


def test_ofd_margins_golden() -> None:
    margins = ofd.margins(GOLDEN_NORM)
    close(margins[:4], [-0.774757, -0.825056, -0.869469, -0.899417])
    close(margins.mean(), -0.872369)


def test_ofd_golden() -> None:
    stage = fill(ofd.Stage(64, GOLDEN_NORM)).train()
    close(stage(G((4, 64, 8, 8), 0.2), G((4, 128, 8, 8), 0.9, 2)) / (4 * 1000), 18.611176)


def test_ofd_margin_is_the_mean_of_the_negative_part_of_a_normal() -> None:
    weight, bias = torch.tensor([1.0, -1.0, 0.5, 2.0]), torch.tensor([0.0, 0.0, 0.3, -1.5])
    margins = ofd.margins(norm(weight, bias))
    torch.testing.assert_close(margins[:2], torch.full((2,), -math.sqrt(2 / math.pi)))
    x = bias.double() + weight.double().abs() * torch.linspace(-12, 12, 400_001, dtype=torch.float64).unsqueeze(1)
    density = torch.exp(-(((x - bias.double()) / weight.double()) ** 2) / 2) * (x < 0)
    torch.testing.assert_close(margins, ((x * density).sum(0) / density.sum(0)).float(), rtol=1e-4, atol=0)


def test_ofd_margin_of_channels_that_are_hardly_ever_negative_or_constant() -> None:
    weight, bias = torch.tensor([1.0, -0.5, 0.0, 0.0, 0.0]), torch.tensor([4.0, 2.0, 1.0, -1.0, 0.0])
    torch.testing.assert_close(ofd.margins(norm(weight, bias)), torch.tensor([-3.0, -1.5, 0.0, -1.0, 0.0]))


def test_ofd_leaves_a_student_below_a_negative_target_alone() -> None:
    cases = [(-2.0, -1.0, 0.0), (-1.0, -1.0, 0.0), (0.5, -1.0, 2.25), (-1.0, 2.0, 9.0), (3.0, 2.0, 1.0)]
    for u, v, expected in cases:
        assert ofd.partial_distance(torch.tensor([u]), torch.tensor([v])) == expected


def test_ofd_halves_the_weight_of_each_earlier_stage_and_averages_over_the_batch() -> None:
    method = golden_method("ofd", margin_weight=0.002)
    s, t = golden_features("pre", "pre")
    expected = 0.0
    for stage, tap_s, tap_t, share in zip(method.stages, s.stages, t.stages, (0.25, 0.5, 1), strict=True):
        u, v = stage.connector(tap_s.pre), torch.maximum(tap_t.pre, stage.margin)
        counts = ~((u <= v) & (v <= 0))
        expected += share * ((u - v)[counts] ** 2).sum().item()
    close(method.terms(s, t, golden_batch())["margin"], 0.002 * expected / 4)
    assert [len(stage.margin) for stage in method.stages] == [32, 64, 128]


def test_ofd_takes_margins_from_the_trained_teacher_though_it_normalises_by_the_batch() -> None:
    teacher = tiny.network("resnet14", seed=1)
    with torch.no_grad():
        teacher.stage_norms()[1].bias.fill_(-0.7)
    made = ofd.Method(ofd.Config(), tiny.network(), Teacher(teacher, tiny.NORMALIZATION), tiny.card())
    assert made.teacher is not teacher
    torch.testing.assert_close(made.stages[1].margin.flatten(), ofd.margins(teacher.stage_norms()[1]))
    assert not any("margin" in name for name in made.state_dict())


def test_ofd_pools_a_larger_teacher_map_before_it_cuts_it() -> None:
    stage = fill(ofd.Stage(8, GOLDEN_NORM)).eval()
    f_s, f_t = G((2, 8, 4, 4), 0.2), G((2, 128, 8, 8), 0.9)
    by_hand = f_t.reshape(2, 128, 4, 2, 4, 2).mean((3, 5))
    torch.testing.assert_close(stage(f_s, f_t), stage(f_s, by_hand))


def test_ofd_refuses_a_teacher_that_names_no_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("pipeline.models.resnet.ResNet.stage_norms")
    with pytest.raises(ParamsError, match="resnet14 names none"):
        tiny.method("ofd")


def test_reviewkd_golden() -> None:
    terms = golden_method("reviewkd", review_weight=1).terms(*golden_features("act", "pre"), golden_batch())
    close(terms["review"], 4.0986853)


def test_reviewkd_distance_of_equal_maps_is_zero_and_of_a_constant_shift_its_square() -> None:
    for size in (1, 2, 3, 4, 7, 8):
        f = G((2, 3, size, size), 0.4)
        assert reviewkd.hierarchical_distance(f, f) == 0
        torch.testing.assert_close(reviewkd.hierarchical_distance(f + 0.5, f), torch.tensor(0.25))


@pytest.mark.parametrize(("size", "weights"), [(2, 1.5), (4, 1.75), (8, 1.875)])
def test_reviewkd_distance_of_a_chessboard_vanishes_in_every_pooling(size: int, weights: float) -> None:
    # Halving happens only when a pooling is used: a map of 2 x 2 is pooled to 1 x 1 alone, with weight 1/2.
    board = (-1.0) ** torch.arange(size)
    o = (board.unsqueeze(1) * board).expand(2, 3, size, size)
    close(reviewkd.hierarchical_distance(o, torch.zeros_like(o)), 1 / weights)


def test_reviewkd_warms_up_from_nothing_in_the_first_epoch() -> None:
    def review(method: Method, epoch: int) -> torch.Tensor:
        return method.terms(*golden_features("act", "pre"), golden_batch(epoch))["review"]

    method = golden_method("reviewkd").eval()
    whole = review(method, 20)
    assert whole > 0
    for epoch, share in ((0, 0.0), (1, 0.05), (10, 0.5), (21, 1.0), (200, 1.0)):
        torch.testing.assert_close(review(method, epoch), whole * share)
    torch.testing.assert_close(review(golden_method("reviewkd", warmup_epochs=0).eval(), 0), whole)


def test_reviewkd_attention_decides_between_a_level_and_the_deeper_ones() -> None:
    review = fill(reviewkd.Review([4, 8], [6, 10])).eval()
    shallow, deep = G((2, 4, 6, 6), 0.2), G((2, 8, 3, 3), 0.3)
    attend = review.attention[0]
    with torch.no_grad():
        attend.weight.zero_()
        attend.bias.copy_(torch.tensor([100.0, -100.0]))
        only_shallow = review([shallow, deep], [(6, 6), (3, 3)])[0]
        attend.bias.copy_(torch.tensor([-100.0, 100.0]))
        only_deep = review([shallow, deep], [(6, 6), (3, 3)])[0]
        up = review.lifts[1](deep).repeat_interleave(2, 2).repeat_interleave(2, 3)
        torch.testing.assert_close(only_shallow, review.projectors[0](review.lifts[0](shallow)))
        torch.testing.assert_close(only_deep, review.projectors[0](up))


def srrl_features(method: Method) -> tuple[Features, Features]:
    """The pooled vectors as maps of 1 x 1, where lifting before pooling and after it are the same."""
    h_s, h_t = pooled()
    s = features("act", [h_s[:, :, None, None]], h_s, logits()[0])
    return s, features("act", [h_t[:, :, None, None]], h_t, method.teacher.fc(h_t))


def test_srrl_golden() -> None:
    method = golden_method("srrl")
    terms = method.terms(*srrl_features(method), golden_batch())
    close(terms["feature"] + terms["regression"], 6.9706039)


def test_srrl_is_zero_for_a_student_that_hits_the_teachers_features() -> None:
    method = golden_method("srrl").eval()
    s, _ = golden_features("act", "pre")
    h = method.connector(s.stages[-1].act).relu().mean((2, 3))
    t = features("pre", stages_t(), h, method.teacher.fc(h))
    terms = method.terms(s, t, golden_batch())
    assert terms["feature"] < 1e-12
    assert terms["regression"] < 1e-12


def test_srrl_regression_is_blind_to_the_bias_of_the_teachers_classifier() -> None:
    method = golden_method("srrl")
    before = method.terms(*srrl_features(method), golden_batch())["regression"]
    method.teacher.fc.bias += G((10,), 0.4)
    torch.testing.assert_close(method.terms(*srrl_features(method), golden_batch())["regression"], before)


def test_srrl_gradient_passes_the_frozen_classifier() -> None:
    method = golden_method("srrl", feature_weight=0)
    s, t = srrl_features(method)
    act = s.stages[-1].act.requires_grad_()
    method.terms(s, t, golden_batch())["regression"].backward()
    assert act.grad is not None
    assert act.grad.abs().sum() > 0
    assert method.teacher.fc.weight.grad is None


@pytest.mark.parametrize("name", OURS)
def test_bf16_maps_give_float32_terms_of_nearly_the_same_value(name: str) -> None:
    method, batch = tiny.method(name).train(), tiny.batch()
    plain = method(batch).terms
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = method(batch).terms
    for term in TERMS[name]:
        assert coarse[term].dtype is torch.float32
        torch.testing.assert_close(coarse[term], plain[term], rtol=0.03, atol=0)


@pytest.mark.parametrize("name", OURS)
def test_a_teacher_of_other_classes_serves(name: str) -> None:
    module = find(name)
    teacher = Teacher(tiny.network("resnet14", classes=7), tiny.NORMALIZATION)
    method = module.Method(module.Config(), tiny.network(), teacher, tiny.card())
    output = method(tiny.batch())
    assert set(output.terms) == {"ce"} | TERMS[name]
    assert all(term.isfinite() for term in output.terms.values())
    with pytest.raises(ParamsError, match="7 classes"):
        module.Method(module.Config(kl_weight=1), tiny.network(), teacher, tiny.card())


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(("student", "teacher"), [("resnet18", "resnet18_cifar"), ("resnet18_cifar", "resnet18")])
def test_maps_of_other_sizes_are_brought_together(name: str, student: str, teacher: str) -> None:
    output = tiny.method(name, student, teacher).train()(tiny.batch(4))
    assert all(term.isfinite() for term in output.terms.values())


@pytest.mark.parametrize("name", ["ofd", "reviewkd"])
def test_another_number_of_stages_is_refused_before_training(name: str) -> None:
    with pytest.raises(ParamsError, match="student has 3 stages and the teacher 4"):
        tiny.method(name, student="resnet8", teacher="resnet18")


def test_ofd_lifts_every_stage_even_where_channels_agree() -> None:
    method = tiny.method("ofd")
    assert [stage.connector[0].weight.shape[:2] for stage in method.stages] == [(16, 16), (32, 32), (64, 64)]
