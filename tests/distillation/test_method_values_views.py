"""MLKD and CRLD, which see two views of each image: golden values, closed forms, invariances, refusals.

The golden values come from the official code, run once on the logits that `views` makes.
"""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.distillation import blocks, mlkd
from pipeline.distillation.base import Teacher, find
from pipeline.distillation.batch import Batch, Both
from pipeline.models.base import Features, Tap
from pipeline.system.errors import ParamsError
from tests import tiny
from tests.golden import LABELS, G

TEMPERATURES = (2, 3, 4, 5, 6)


def close(came: Tensor, expected: float | list[float]) -> None:
    torch.testing.assert_close(came.detach(), torch.tensor(expected), rtol=1e-4, atol=0.0)


def views() -> tuple[list[Tensor], list[Tensor]]:
    """Logits of the student and of the teacher, of the weak and of the strong view."""
    z_t = [G((4, 10), 1.1, 2), G((4, 10), 1.7, 2)]
    for z, step in zip(z_t, (2.5, 1.5), strict=True):
        z[torch.arange(4), LABELS] += step * torch.arange(4)
    return [G((4, 10), 0.5, 3), G((4, 10), 0.9, 3)], z_t


def features(z: Tensor) -> Features:
    nothing = Tap(z, z, z)
    return Features(nothing, (), (), z, z)


def terms(name: str, z_s: list[Tensor], z_t: list[Tensor], **config: object) -> dict[str, Tensor]:
    """What a method makes of the logits of two views."""
    batch = Batch(z_s[0], LABELS, torch.arange(4), 0.0, 0)
    s, t = (Both(*map(features, z)) for z in (z_s, z_t))
    module, method = find(name), tiny.method(name)
    method.config = module.Config(**config)
    came: dict[str, Tensor] = method.terms(s, t, batch)
    return came


def test_divergences_of_single_temperatures_golden() -> None:
    z_s, z_t = views()
    weak, strong = ([blocks.soft_kl(z_s[i], z_t[i], T) for T in TEMPERATURES] for i in (0, 1))
    close(torch.stack(weak), [2.0842614, 2.1898758, 2.0630393, 1.9312524, 1.8287519])
    close(torch.stack(strong), [1.1986903, 1.2216415, 1.2225838, 1.2196909, 1.2163014])


def test_mlkd_correlations_golden() -> None:
    z_s, z_t = views()
    of_each = [mlkd._correlations([z_s[0], z_t[0]], (T,)) for T in TEMPERATURES]
    classes, images = (torch.stack([rows.mean() for rows in of_kind]) for of_kind in zip(*of_each, strict=True))
    close(classes, [0.055843223, 0.01503052, 0.0047478508, 0.0020115192, 0.0010541092])
    close(images, [0.091482475, 0.019656751, 0.0042471229, 0.001192617, 0.00042655104])


def test_mlkd_golden() -> None:
    came = terms("mlkd", *views())
    assert list(came) == ["ce", "kl", "classes", "images"]
    close(torch.stack(list(came.values())), [0.71059126, 11.362968, 0.035409249, 0.052652486])
    close(torch.stack(list(came.values())).sum(), 12.161621)


def test_mlkd_with_standardised_logits_golden() -> None:
    came = terms("mlkd", *views(), standardize=True, temperature=2, kl_weight=9)
    close(torch.stack(list(came.values())), [0.71059126, 23.001116, 0.58402163, 0.91908395])
    close(torch.stack(list(came.values())).sum(), 25.214813)


def test_mlkd_is_blind_to_the_size_of_logits_only_if_it_standardises_them() -> None:
    z_s, z_t = views()
    larger = [3 * z for z in z_s]
    for standardize in (True, False):
        kl, other = (terms("mlkd", z, z_t, standardize=standardize)["kl"] for z in (z_s, larger))
        assert torch.allclose(kl, other, rtol=1e-4) == standardize
    plain, standard = (terms("mlkd", z_s, z_t, standardize=standardize) for standardize in (False, True))
    assert [name for name in plain if not torch.equal(plain[name], standard[name])] == ["kl"]


def test_mlkd_repaired_selects_images_and_classes_and_reads_strong_views() -> None:
    z_s, z_t = views()
    p = z_t[0].softmax(1)
    sure, often = p.max(1).values, p.sum(0)
    kept = [b for b in range(4) if sure[b] <= sure.quantile(0.5)]
    kept_classes = [k for k in range(10) if often[k] <= often.quantile(0.5)]
    assert (len(kept), len(kept_classes)) == (2, 5)
    kl, classes, images = 0.0, 0.0, 0.0
    for T in (4, 3, 5, 2, 6):
        for i, (of_images, of_classes) in enumerate([(kept, kept_classes), (range(4), range(10))]):
            p_s, p_t = (z[i].div(T).softmax(1) for z in (z_s, z_t))
            for b in of_images:
                kl += T**2 * float((p_t[b] * (p_t[b] / p_s[b]).log()).sum()) / 4
                images += sum(float(p_t[b] @ p_t[a] - p_s[b] @ p_s[a]) ** 2 for a in range(4)) / 4
            for k in of_classes:
                classes += sum(float(p_t[:, k] @ p_t[:, j] - p_s[:, k] @ p_s[:, j]) ** 2 for j in range(10)) / 10
    came = terms("mlkd", z_s, z_t, form="repaired", kl_weight=1)
    close(came["kl"], kl)
    close(came["classes"], classes)
    close(came["images"], images)
    assert torch.equal(came["ce"], terms("mlkd", z_s, z_t)["ce"])


@pytest.mark.parametrize("numbers", [[3.0, 1, 2], [4.0, 1, 3, 2], [1.0, 1, 1, 5], [2.0, 2], [7.0]])
def test_mlkd_median_is_that_of_quantile(numbers: list[float]) -> None:
    x = torch.tensor(numbers)
    assert torch.equal(mlkd._up_to_median(x), (x <= x.quantile(0.5)).float())


@pytest.mark.parametrize("form", ["executed", "repaired"])
def test_mlkd_of_a_student_that_is_its_teacher_is_cross_entropy_alone(form: str) -> None:
    _, z = views()
    came = terms("mlkd", z, z, form=form)
    close(came["ce"], 0.1 * float(sum(functional.cross_entropy(view, LABELS) for view in z)))
    assert all(abs(float(came[name])) < 1e-5 for name in ("kl", "classes", "images"))


def test_crld_golden() -> None:
    came = terms("crld", *views())
    assert list(came) == ["ce", "within", "across"]
    close(torch.stack(list(came.values())), [7.1059127, 3.0130317, 1.5796191])


@pytest.mark.parametrize(
    ("weak", "strong", "within", "across"), [(0, 0, 6.5712461, 1.8766656), (0.5, 0.8, 5.146821, 0.8885895)]
)
def test_crld_with_other_thresholds_golden(weak: float, strong: float, within: float, across: float) -> None:
    came = terms("crld", *views(), weak_threshold=weak, strong_threshold=strong)
    close(came["within"], within)
    close(came["across"], across)


def test_crld_of_a_teacher_that_is_nowhere_sure_is_cross_entropy_alone() -> None:
    came = terms("crld", *views(), weak_threshold=1.01, strong_threshold=1.01)
    close(came["ce"], 7.1059127)
    assert came["within"] == came["across"] == 0


def test_crld_of_equal_views_is_the_plain_divergence() -> None:
    (z_s, _), (z_t, _) = views()
    came = terms("crld", [z_s, z_s], [z_t, z_t], weak_threshold=0, strong_threshold=0)
    ce, kl = functional.cross_entropy(z_s, LABELS), blocks.soft_kl(z_s, z_t, 4)
    torch.testing.assert_close(came["ce"], 2 * ce)
    torch.testing.assert_close(came["within"] + came["across"], (2 * 2 + 2 * 0.5) * kl)


@pytest.mark.parametrize("ce_weight", [0, 1])
def test_the_plain_divergence_can_be_added_to_crld(ce_weight: float) -> None:
    z_s, z_t = views()
    came = terms("crld", z_s, z_t, kl_weight=0.5, ce_weight=ce_weight)
    torch.testing.assert_close(came["kl"], 0.5 * blocks.soft_kl(z_s[0], z_t[0], 4))
    assert ("ce" in came) == bool(ce_weight)


@pytest.mark.parametrize("name", ["mlkd", "crld"])
def test_a_term_stays_finite_where_both_networks_are_sure(name: str) -> None:
    z_t = [1000.0 * functional.one_hot(LABELS, 10), 1000.0 * functional.one_hot(LABELS, 10)]
    z_s = [(2 * z).requires_grad_() for z in z_t]
    torch.stack(list(terms(name, z_s, z_t).values())).sum().backward()
    assert all(z.grad is not None and z.grad.isfinite().all() for z in z_s)


@pytest.mark.parametrize("name", ["mlkd", "crld"])
def test_each_network_sees_each_view_in_a_pass_of_its_own(name: str) -> None:
    method, batch, seen = tiny.method(name).train(), tiny.batch(), list[tuple[str, Tensor]]()
    for role, network in (("student", method.student), ("teacher", method.teacher)):
        network.conv1.register_forward_pre_hook(lambda _, given, role=role: seen.append((role, given[0])))
    output = method(batch)
    for role in ("student", "teacher"):
        weak, strong = (images for of, images in seen if of == role)
        assert weak is batch.images
        assert strong is batch.strong
    passes = {int(count) for key, count in method.state_dict().items() if key.endswith("num_batches_tracked")}
    assert passes == {2}
    # Statistics of each view: not those of the two together.
    alone = tiny.method(name).train().student(batch.images)
    torch.testing.assert_close(output.logits, alone)


@pytest.mark.parametrize("name", ["mlkd", "crld"])
def test_predictions_of_other_classes_are_refused_at_any_kl_weight(name: str) -> None:
    module = find(name)
    teacher = Teacher(tiny.network("resnet14", classes=7), tiny.NORMALIZATION)
    with pytest.raises(ParamsError, match=f"{name} compares predictions, .*7 classes and the data set has 4"):
        module.Method(module.Config(kl_weight=0.0), tiny.network(), teacher, tiny.card())
