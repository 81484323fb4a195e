"""The contract of every file in pipeline/distillation, found by the file system."""

import copy
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from pipeline.distillation.base import Method, Teacher, find
from pipeline.settings.data import Normalization
from pipeline.system import registry
from pipeline.system.errors import ParamsError
from pipeline.training.batch_sizes import one_value
from tests import tiny

METHODS = registry.names("pipeline.distillation")
PAIRS = (("resnet8", "resnet14"), ("wrn_16_1", "wrn_16_2"), ("resnet8", "wrn_16_1"))
UNSERVED = ("kdsvd", "wrn_16_1", "wrn_16_2")
"""It needs as many channels in both networks."""
every_method = pytest.mark.parametrize("name", METHODS)
every_served_pair = pytest.mark.parametrize(
    ("name", "student", "teacher"), [row for name in METHODS for pair in PAIRS if (row := (name, *pair)) != UNSERVED]
)


@every_served_pair
def test_terms_are_finite_named_scalars(name: str, student: str, teacher: str) -> None:
    output = tiny.method(name, student, teacher).train()(tiny.batch())
    assert output.terms
    for term in output.terms.values():
        assert term.shape == ()
        assert term.dtype is torch.float32
        assert term.isfinite()
    assert output.logits.shape == (8, tiny.CLASSES)


@every_served_pair
def test_the_law_what_is_measured_is_what_ships(name: str, student: str, teacher: str) -> None:
    method = tiny.method(name, student, teacher)
    method.train()(tiny.batch(seed=1))
    method.eval()
    batch = tiny.batch()
    with torch.inference_mode():
        torch.testing.assert_close(method.deployed().eval()(batch.images), method(batch).logits, rtol=1e-5, atol=1e-5)


@every_method
def test_gradients_reach_everything_that_claims_to_train(name: str, *pair: str) -> None:
    method = tiny.method(name, *pair).train()
    # Two batches: a weight may have no gradient by chance in one.
    for seed in (0, 1):
        torch.stack(list(method(tiny.batch(seed=seed)).terms.values())).sum().backward()
    without = [n for n, p in method.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


@every_method
def test_the_teacher_stays_bit_for_bit_and_out_of_the_method(name: str, *pair: str) -> None:
    method = tiny.method(name, *pair)
    if not method.needs_teacher:
        assert not hasattr(method, "_borrowed") or not method._borrowed
        return
    before = copy.deepcopy(method.teacher.state_dict())
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, weight_decay=0.1)
    for seed in range(2):
        torch.stack(list(method.train()(tiny.batch(seed=seed)).terms.values())).sum().backward()
        optimizer.step()
    assert not method.teacher.training
    assert all(torch.equal(before[n], tensor) for n, tensor in method.teacher.state_dict().items())
    owned = {id(p) for p in method.parameters()}
    assert not owned & {id(p) for p in method.teacher.parameters()}
    kept = {t.data_ptr() for t in method.state_dict().values()}
    assert not kept & {t.data_ptr() for t in method.teacher.state_dict().values()}


@every_method
def test_a_saved_and_loaded_method_computes_the_same(name: str, *pair: str) -> None:
    method, other = tiny.method(name, *pair).train(), tiny.method(name, *pair)
    method(tiny.batch(seed=3))
    other.load_state_dict(method.state_dict())
    batch = tiny.batch()
    with torch.inference_mode():
        came, expected = other.eval()(batch), method.eval()(batch)
    assert torch.equal(came.logits, expected.logits)
    assert {n: float(t) for n, t in came.terms.items()} == {n: float(t) for n, t in expected.terms.items()}


@every_method
def test_one_image_in_eval_mode_works(name: str, *pair: str) -> None:
    with torch.inference_mode():
        assert tiny.method(name, *pair).eval()(tiny.batch(1)).logits.shape == (1, tiny.CLASSES)


def learns(method: Method, images: int) -> bool:
    """Whether every term of a batch of so many images moves the student, by more than rounding."""
    parameters = list(method.student.parameters())
    try:
        terms = method.train()(tiny.batch(images)).terms
    except (ValueError, RuntimeError):
        return False
    gradients = [torch.autograd.grad(t, parameters, retain_graph=True, allow_unused=True) for t in terms.values()]
    # The largest of the terms' gradients is 1e5 here.
    return min(sum(float(g.abs().sum()) for g in each if g is not None) for each in gradients) > 1e-6


@every_method
def test_every_term_teaches_from_the_smallest_batch_on_and_not_before(name: str) -> None:
    method = tiny.method(name)
    before = copy.deepcopy(method.state_dict())
    images = 8 if name == "semckd" else max(method.smallest_batch, 1 + one_value(method))  # made for one size alone
    assert all(torch.equal(tensor, before[key]) for key, tensor in method.state_dict().items())
    assert learns(method, images)
    if images > 1:
        assert not learns(tiny.method(name), 1)


@every_method
@pytest.mark.parametrize("teacher_bn", ["eval", "batch"])
def test_maps_of_one_place_need_two_images(name: str, teacher_bn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "IMAGE_PX", 4)
    settings = {"sdd": {"num_scales": 1}}.get(name, {})  # one place cannot be cut
    method = tiny.method(name, **settings, **({"teacher_bn": teacher_bn} if name != "vanilla" else {}))
    if name == "semckd":
        return
    assert one_value(method)
    method.train()(tiny.batch(max(2, method.smallest_batch)))


def test_a_teacher_that_normalises_by_the_batch_needs_two_images_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "IMAGE_PX", 4)
    for teacher_bn in ("eval", "batch"):
        # No map of this student is as small as the teacher's last one.
        method = tiny.method("kd", teacher_bn=teacher_bn)
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, tiny.CLASSES))
        network.features = lambda x, of=network: SimpleNamespace(logits=of(x))  # type: ignore[assignment]
        method.student = network  # type: ignore[assignment]
        assert one_value(method) == (teacher_bn == "batch")


@every_method
def test_weights_that_are_all_zero_are_refused(name: str) -> None:
    weights = [key for key in find(name).Config.model_fields if key.endswith("_weight")]
    with pytest.raises(ValueError, match=r"would learn nothing|greater than 0"):
        find(name).Config(**dict.fromkeys(weights, 0))


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("vanilla", "simkd")])
def test_without_labels_and_softened_predictions_the_classifier_learns_or_it_is_refused(name: str) -> None:
    config = find(name).Config
    if config().head_weights().keys() == {"ce_weight", "kl_weight"} and name not in ("lskd", "mlkd"):
        with pytest.raises(ValueError, match=r"ce_weight and kl_weight are both 0, .* would learn nothing"):
            config(ce_weight=0, kl_weight=0)
        return
    method = tiny.method(name, ce_weight=0)
    torch.stack(list(method.train()(tiny.batch()).terms.values())).sum().backward()
    gradient = method.student.fc.weight.grad
    assert gradient is not None
    assert gradient.abs().max() > 1e-6


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dist", {"dist_weight": 0}),
        ("dist", {"inter_weight": 0, "intra_weight": 0}),
        ("sdd", {"region_weight": 0}),
        ("sdd", {"target_weight": 0, "nontarget_weight": 0}),
    ],
)
def test_a_weight_of_zero_around_or_within_a_term_counts(name: str, settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="would learn nothing"):
        find(name).Config(ce_weight=0, **settings)


@every_method
def test_two_classes_are_learnt_or_refused(name: str) -> None:
    module = find(name)
    student, teacher = tiny.network("resnet8", classes=2), Teacher(tiny.network("resnet14", 2, 1), tiny.NORMALIZATION)
    card = tiny.card(classes=2)
    if module.Method.fewest_classes > 2:
        with pytest.raises(ParamsError, match="learns from 3 classes or more, but the data set has 2"):
            module.Method(module.Config(), student, teacher, card)
        return
    method = module.Method(module.Config(**tiny.SETTINGS.get(name, {})), student, teacher, card).train()
    batch = tiny.batch()
    batch = replace(batch, labels=batch.labels % 2)
    torch.stack(list(method(batch).terms.values())).sum().backward()
    learning = [it.grad.abs().max() for it in method.student.parameters() if it.grad is not None]
    assert max(learning) > 1e-3
    if name != "simkd":
        assert method.student.fc.weight.grad.abs().max() > 1e-3


def test_standardised_logits_of_mlkd_need_three_classes() -> None:
    module = find("mlkd")
    student, teacher = tiny.network("resnet8", classes=2), Teacher(tiny.network("resnet14", 2, 1), tiny.NORMALIZATION)
    with pytest.raises(ParamsError, match="learns from 3 classes or more"):
        module.Method(module.Config(standardize=True), student, teacher, tiny.card(classes=2))


CHECKS: tuple[Callable[..., None], ...] = (
    test_terms_are_finite_named_scalars,
    test_the_law_what_is_measured_is_what_ships,
    test_gradients_reach_everything_that_claims_to_train,
    test_the_teacher_stays_bit_for_bit_and_out_of_the_method,
    test_a_saved_and_loaded_method_computes_the_same,
    test_one_image_in_eval_mode_works,
)
"""The contract, for another pair: check(name, student, teacher)."""
# A student with one stage more than its teacher, at other sizes, and a convolution behind its last map.
MOBILE = ("mobilenet_v2_half", "wrn_16_2")
REFUSED = {
    "catkd": "catkd weighs the channels of the student's last map .* in mobilenet_v2_half more than an average lies",
    "kdsvd": r"student have \[12, 16, 48, 160\] channels and those of the teacher \[32, 64, 128\]",
    "ofd": "ofd compares the networks stage by stage, but the student has 4 stages and the teacher 3",
    "reviewkd": "reviewkd compares the networks stage by stage, but the student has 4 stages and the teacher 3",
    "sakd": "sakd compares square stage maps of equal size .* 12x16x16, 16x8x8, 48x4x4, 160x2x2, the teacher 32x32x32",
    "sdd": "sdd lets the student's classifier read .* in mobilenet_v2_half more than an average lies between",
}


@pytest.mark.slow
@every_method
def test_a_method_serves_a_mobilenet_or_says_why_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "IMAGE_PX", 32)  # its last map would be a single place
    if name in REFUSED:
        with pytest.raises(ParamsError, match=REFUSED[name]):
            tiny.method(name, *MOBILE)
        return
    for check in CHECKS:
        check(name, *MOBILE)


@pytest.mark.parametrize("name", ["ofd", "reviewkd"])
def test_as_many_stages_of_other_sizes_are_compared(name: str) -> None:
    # Bottlenecks teach; each of their maps is twice as high and wide as the student's.
    test_terms_are_finite_named_scalars(name, "mobilenet_v2_half", "resnet50_cifar")


@every_method
def test_config_names_its_documented_fields_and_refuses_others(name: str) -> None:
    with pytest.raises(ValueError, match="extra"):
        find(name).Config(no_such_setting=1)


def test_teacher_with_batch_statistics_normalises_by_the_batch_and_never_drifts() -> None:
    method = tiny.method("kd", teacher_bn="batch").train()
    images = tiny.batch().images
    came = method.teach(images).logits
    reference = tiny.method("kd")
    before = copy.deepcopy(method.teacher.state_dict())
    expected = copy.deepcopy(reference.teacher).train().features(images).logits
    torch.testing.assert_close(came, expected)
    assert not torch.allclose(came, reference.teach(images).logits)
    assert all(torch.equal(before[n], t) for n, t in method.teacher.state_dict().items())


def test_a_teacher_trained_with_other_statistics_sees_images_as_it_was_trained_to() -> None:
    other = Normalization(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    module, network = find("kd"), tiny.network("resnet14", seed=1).eval()
    method = module.Method(module.Config(), tiny.network(), Teacher(network, other), tiny.card())
    pixels = torch.rand(2, 3, 32, 32)

    def normalize(n: Normalization) -> torch.Tensor:
        mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (n.mean, n.std))
        return (pixels - mean) / std

    came = method.teach(normalize(tiny.NORMALIZATION)).logits
    torch.testing.assert_close(came, network(normalize(other)), rtol=1e-4, atol=1e-4)


def test_logit_terms_are_refused_when_the_teacher_knows_other_classes() -> None:
    module = find("kd")
    teacher = Teacher(tiny.network("resnet14", classes=7), tiny.NORMALIZATION)
    with pytest.raises(ParamsError, match="7 classes and the data set has 4"):
        module.Method(module.Config(), tiny.network(), teacher, tiny.card())


def test_sakd_says_which_stages_do_not_fit() -> None:
    with pytest.raises(ParamsError, match="same stages"):
        tiny.method("sakd", student="resnet8", teacher="resnet18")


def test_unknown_method_names_the_nearest() -> None:
    with pytest.raises(ParamsError, match="did you mean 'sakd'"):
        find("skad")
