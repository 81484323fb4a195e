"""SimKD and NORM: golden values, closed forms, and that the network which ships computes what was trained."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.deployment import export
from pipeline.distillation import norm, simkd
from pipeline.distillation.base import Method, Teacher, find
from pipeline.models import base, checkpoint, reused
from pipeline.models.fold import folded
from pipeline.system.errors import ParamsError
from serve.model.card import Card
from serve.model.classifier import OnnxClassifier
from tests import tiny
from tests.golden import G, fill, logits, stages_s, stages_t

pytestmark = pytest.mark.slow

PAIRS = (("resnet8", "wrn_16_2"), ("wrn_16_1", "resnet14"), ("wrn_16_1", "wrn_16_2"))
every_pair = pytest.mark.parametrize(("student", "teacher"), PAIRS)


def close(came: torch.Tensor, expected: float | list[float]) -> None:
    torch.testing.assert_close(came.detach(), torch.tensor(expected), rtol=1e-4, atol=0.0)


def trained(name: str, student: str = "resnet8", teacher: str = "resnet14", **config: object) -> Method:
    """After a few steps: BN statistics, gammas and betas are no longer the initial ones."""
    method = tiny.method(name, student, teacher, **config).train()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.05, momentum=0.9)
    for seed in range(4):
        optimizer.zero_grad()
        torch.stack(list(method(tiny.batch(16, seed)).terms.values())).sum().backward()
        optimizer.step()
    return method.eval()


def spoiled(network: nn.Module, seed: int = 5) -> None:
    """Statistics and affine parameters of every BN, far from their initial values."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.3, 3)
                part.weight.uniform_(0.5, 2)
                part.bias.normal_()


def onnx_computes(model: base.Classifier, path: Path) -> Card:
    """What the exported file says of itself, once it was seen to compute the same."""
    header = checkpoint.make_header(model, tiny.card(), tiny.NORMALIZATION, "m", 0, {})
    nn.init.normal_(model.fc.bias)  # one of zeros would not be stored
    servable = export.Servable(model, tiny.NORMALIZATION)
    export.write_onnx(servable, export.make_card("student", header, {}), path, 20)
    classifier = OnnxClassifier(path, device="cpu")
    export.check_parity(servable, classifier.outputs, tiny.split(8).images, (1, 3, 8), 1e-5)
    assert classifier.card.num_parameters == base.num_parameters(folded(model))
    return classifier.card


def stored(model: base.Classifier, path: Path) -> base.Classifier:
    """Saved and loaded again."""
    checkpoint.save(model, checkpoint.make_header(model, tiny.card(), tiny.NORMALIZATION, "m", 0, {}), path)
    return checkpoint.load(path)[0]


# SimKD


def test_simkd_golden() -> None:
    projector = fill(reused.projector(64, 128, factor=2))
    assert base.num_parameters(projector) == 49_664
    close(functional.mse_loss(projector(stages_s()[2]).relu(), stages_t()[2]), 0.50062382)


@pytest.mark.parametrize(
    ("student", "expected"),
    # Body without its head (and, in a WRN, the final BN; in a MobileNet, the last convolution and its BN), projector,
    # head of a WRN-40-2.
    [
        ("resnet20", 278_324 - 6_500 + 49_664 + 12_900),
        ("wrn_16_1", 180_916 - 6_500 - 128 + 49_664 + 12_900),
        ("mobilenet_v2_half", 812_836 - 128_100 - 207_360 + 55_808 + 12_900),
    ],
)
def test_simkd_counts_projector_and_head(student: str, expected: int) -> None:
    teacher = Teacher(tiny.network("wrn_40_2", classes=100), tiny.NORMALIZATION)
    method = simkd.Method(simkd.Config(), tiny.network(student, classes=100), teacher, tiny.card(100, classes=100))
    assert base.num_parameters(method.deployed()) == expected


@every_pair
def test_simkd_trains_all_it_has_and_nothing_of_the_teacher(student: str, teacher: str) -> None:
    method = tiny.method("simkd", student, teacher).train()
    method(tiny.batch()).terms["feature"].backward()
    assert not [name for name, p in method.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not [name for name in method.state_dict() if "fc" in name]
    assert all(p.grad is None for p in method.teacher.parameters())


def test_simkd_with_the_teacher_s_map_gives_the_teacher_s_logits() -> None:
    method = tiny.method("simkd", "resnet8", "wrn_16_2").eval()
    batch = tiny.batch()
    t = method.teach(batch.images)
    torch.testing.assert_close(method.deployed()._classify(base.pool(t.stages[-1].act)), t.logits)
    assert float(method.terms(t, t, batch)["feature"]) == 0


def test_simkd_takes_ce_and_kl_of_the_logits_that_ship() -> None:
    method = tiny.method("simkd", ce_weight=0.5, kl_weight=0.9).train()
    batch = tiny.batch()
    output = method(batch)
    assert list(output.terms) == ["ce", "kl", "feature"]
    torch.testing.assert_close(output.terms["ce"], 0.5 * functional.cross_entropy(output.logits, batch.labels))


@pytest.mark.parametrize(
    ("student", "teacher", "map_px"),
    # Last maps at 16 pixels: resnet8 4x4, resnet18_cifar 2x2.
    [("resnet8", "resnet18_cifar", [2, 2]), ("resnet18_cifar", "resnet8", None)],
)
def test_simkd_averages_the_larger_map(student: str, teacher: str, map_px: list[int] | None, tmp_path: Path) -> None:
    method = trained("simkd", student, teacher)
    batch = tiny.batch()
    with torch.inference_mode():
        expected = method(batch).logits
        assert method.deployed().spec.get("map_px") == map_px
        torch.testing.assert_close(stored(method.deployed(), tmp_path / "m")(batch.images), expected)


@pytest.mark.parametrize(("student", "teacher"), [*PAIRS, ("mobilenet_v2_half", "resnet14")])
def test_simkd_ships_a_network_that_a_file_rebuilds(student: str, teacher: str, tmp_path: Path) -> None:
    method = trained("simkd", student, teacher)
    shipped = method.deployed()
    loaded = stored(shipped, tmp_path / "m.safetensors")
    batch = tiny.batch()
    with torch.inference_mode():
        torch.testing.assert_close(loaded(batch.images), method(batch).logits)
        assert torch.equal(loaded(batch.images), loaded.features(batch.images).logits)
    assert base.num_parameters(loaded) == base.num_parameters(shipped)


@every_pair
def test_simkd_ships_a_network_that_onnx_computes(student: str, teacher: str, tmp_path: Path) -> None:
    model = trained("simkd", student, teacher).deployed()
    assert onnx_computes(model, tmp_path / "m.onnx").arch.endswith(" + reused head")


@every_pair
def test_what_simkd_ships_keeps_the_features_contract(student: str, teacher: str) -> None:
    model = trained("simkd", student, teacher).deployed()
    outputs: list[torch.Tensor] = []
    for part in model.stage_norms():
        part.register_forward_hook(lambda _, __, out: outputs.append(out))
    features = model.features(tiny.batch().images)
    assert len(outputs) == len(features.stages) == 3
    assert len(features.blocks) == len(tiny.network(student).features(tiny.batch().images).blocks) + 1
    for tap in features.blocks:
        assert torch.equal(tap.act, tap.pre.relu())
    assert torch.equal(features.stages[-1].pre, outputs[-1])
    assert torch.equal(features.pooled, features.stages[-1].act.mean((2, 3)))
    assert torch.equal(features.logits, model.fc(features.pooled))


@every_pair
@pytest.mark.parametrize("name", ["kd", "sakd", "afd", "simkd", "norm"])
def test_what_simkd_ships_can_teach_and_learn(name: str, student: str, teacher: str, tmp_path: Path) -> None:
    shipped = trained("simkd", student, teacher).deployed()
    module = find(name)
    for learner, master in (
        (tiny.network("resnet8", seed=7), stored(shipped, tmp_path / "m.safetensors")),
        (stored(shipped, tmp_path / "m.safetensors"), tiny.network("resnet14")),
    ):
        method = module.Method(module.Config(), learner, Teacher(master, tiny.NORMALIZATION), tiny.card()).train()
        torch.stack(list(method(tiny.batch()).terms.values())).sum().backward()
        assert not [n for n, p in method.named_parameters() if p.grad is None]
        batch = tiny.batch(4)
        with torch.inference_mode():
            again = stored(method.eval().deployed(), tmp_path / "again.safetensors")
            torch.testing.assert_close(again(batch.images), method(batch).logits, rtol=1e-4, atol=1e-5)


def test_simkd_refuses_what_cannot_work() -> None:
    teacher = Teacher(tiny.network("resnet14", classes=7), tiny.NORMALIZATION)
    with pytest.raises(ParamsError, match="knows 7 classes, but the data set has 4"):
        simkd.Method(simkd.Config(), tiny.network(), teacher, tiny.card())
    with pytest.raises(ParamsError, match="factor is 100, more than the 64 channels"):
        tiny.method("simkd", factor=100)
    with pytest.raises(ParamsError, match="not a network to train from the start"):
        base.build({"arch": "reused", "num_classes": 4})


# NORM


@pytest.mark.parametrize(("channels", "teacher", "expected"), [(64, 64, 66_688), (128, 128, 264_448)])
def test_norm_transform_has_the_published_size(channels: int, teacher: int, expected: int) -> None:
    assert base.num_parameters(norm.Transform(channels, 8 * teacher)) == expected


@pytest.mark.parametrize(
    ("student", "teacher", "training", "shipped"),
    [
        ("resnet20", "resnet56", 278_324 + 66_688, 278_324),
        ("resnet20", "wrn_16_2", 278_324 + 133_248, 278_324),
        ("wrn_16_2", "wrn_16_2", 703_284 + 264_448, 703_284 + 16_512),
        ("mobilenet_v2_half", "wrn_16_2", 812_836 + 330_048, 812_836 + 160 * 160 + 160),
    ],
)
def test_norm_ships_the_published_sizes(student: str, teacher: str, training: int, shipped: int) -> None:
    learned = Teacher(tiny.network(teacher, classes=100), tiny.NORMALIZATION)
    method = norm.Method(norm.Config(), tiny.network(student, classes=100), learned, tiny.card(100, classes=100))
    assert base.num_parameters(method) == training
    assert base.num_parameters(method.deployed()) == shipped


@pytest.mark.parametrize("student", ["resnet8", "wrn_16_1", "resnet18_cifar", "mobilenet_v2_half"])
def test_norm_ships_what_it_trained(student: str, tmp_path: Path) -> None:
    method = trained("norm", student, "wrn_16_2")
    # All but the transform as training left it: spoiling the whole network would blow up its maps.
    spoiled(method.student.neck)
    batch = tiny.batch()
    with torch.inference_mode():
        expected = method(batch).logits
        shipped = method.deployed()
        torch.testing.assert_close(shipped(batch.images), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(stored(shipped, tmp_path / "m")(batch.images), expected, rtol=1e-5, atol=1e-5)
    if student.startswith("resnet"):
        assert shipped.spec == method.student.spec
        assert shipped.state_dict().keys() == tiny.network(student).state_dict().keys()


def test_norm_ships_a_mobilenet_that_onnx_computes(tmp_path: Path) -> None:
    model = trained("norm", "mobilenet_v2_half", "resnet14").deployed()
    assert onnx_computes(model, tmp_path / "m.onnx").arch == "mobilenet_v2_half + neck"


def test_norm_folds_exactly_in_float64() -> None:
    method = trained("norm").double()
    spoiled(method.student.neck)
    images = tiny.batch().images.double()
    with torch.inference_mode():
        torch.testing.assert_close(method.deployed()(images), method.student(images), rtol=1e-11, atol=1e-12)


def test_norm_affine_form_is_that_of_its_weights() -> None:
    transform = norm.Transform(5, 12).eval()
    spoiled(transform)
    parts = []
    for conv, bn in (transform.expand, transform.reduce):
        gain = (bn.weight / (bn.running_var + bn.eps).sqrt()).double()
        parts.append((gain[:, None] * conv.weight[:, :, 0, 0].double(), bn.bias - gain * bn.running_mean))
    (a_e, b_e), (a_r, b_r) = parts
    m, c = norm.affine(transform, 5)
    torch.testing.assert_close(m, a_r @ a_e + torch.eye(5, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(c, a_r @ b_e + b_r, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["norm", "simkd"])
@pytest.mark.parametrize("student", ["resnet8", "wrn_16_1"])
def test_deploying_in_the_middle_does_not_disturb_training(name: str, student: str) -> None:
    def run(deploy: bool) -> dict[str, torch.Tensor]:
        method = tiny.method(name, student)
        optimizer = torch.optim.SGD(method.parameters(), lr=0.05)
        torch.manual_seed(11)
        for seed in range(3):
            method.train()
            optimizer.zero_grad()
            torch.stack(list(method(tiny.batch(seed=seed)).terms.values())).sum().backward()
            optimizer.step()
            if deploy:
                modes = {n: m.training for n, m in method.named_modules()}
                state = torch.get_rng_state()
                shipped = method.deployed()
                assert torch.equal(state, torch.get_rng_state())
                with torch.inference_mode():
                    shipped.eval()(tiny.batch().images)
                shipped.train()
                assert modes == {n: m.training for n, m in method.named_modules()}
                assert not any(m.training for m in method.teacher.modules())
        return method.state_dict()

    with_it, without = run(True), run(False)
    assert all(torch.equal(with_it[name], tensor) for name, tensor in without.items())


def test_norm_deploys_when_the_student_was_looked_at_outside_the_loss() -> None:
    method = tiny.method("norm").train()
    method.student(tiny.batch().images)
    assert base.num_parameters(method.deployed()) == base.num_parameters(tiny.network())


def test_norm_runs_every_bn_once() -> None:
    method = tiny.method("norm").train()
    method(tiny.batch())
    assert {int(m.num_batches_tracked) for m in method.modules() if isinstance(m, nn.BatchNorm2d)} == {1}


def test_norm_distance_is_that_to_every_copy() -> None:
    e, f_t = G((2, 12, 4, 4), 0.2), G((2, 4, 4, 4), 0.9)
    torch.testing.assert_close(norm.repeated_distance(e, f_t, 3), 3 * (e - f_t.repeat(1, 3, 1, 1)).square().mean())
    assert norm.repeated_distance(f_t.repeat(1, 3, 1, 1), f_t, 3) == 0


def test_norm_pools_the_larger_map() -> None:
    e, f_t = G((2, 8, 4, 4), 0.2), G((2, 4, 8, 8), 0.9)
    pooled = functional.max_pool2d(f_t, 2)
    torch.testing.assert_close(norm.repeated_distance(e, f_t, 2), norm.repeated_distance(e, pooled, 2))
    e, f_t = G((2, 8, 8, 8), 0.2), G((2, 4, 4, 4), 0.9)
    pooled = functional.avg_pool2d(e, 2)
    torch.testing.assert_close(norm.repeated_distance(e, f_t, 2), norm.repeated_distance(pooled, f_t, 2))


def test_norm_ramp_is_the_published_one_at_240_epochs() -> None:
    weights = [norm.ramp((epoch + 0 / 782) / 240) for epoch in range(240)]
    assert weights == [0.1] * 10 + [0.5] * 10 + [1.0] * 160 + [0.5] * 30 + [0.1] * 30
    assert norm.ramp((9 + 781 / 782) / 240) == 0.1


def test_norm_standardizes_logits() -> None:
    z = norm.standardize(logits()[0])
    torch.testing.assert_close(z.mean(1), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(z.std(1, correction=0), torch.full((4,), 2.5))
    torch.testing.assert_close(norm.standardize(3 * logits()[0] + 2), z)


def test_norm_loss_sees_standardized_logits_and_ships_raw_ones() -> None:
    method = tiny.method("norm", kl_weight=0.9).train()
    batch = tiny.batch()
    output = method(batch)
    expected = 0.1 * functional.cross_entropy(norm.standardize(output.logits), batch.labels)
    torch.testing.assert_close(output.terms["ce"], expected)
    assert list(output.terms) == ["ce", "kl", "norm"]
    assert not torch.allclose(output.logits, norm.standardize(output.logits))


def test_norm_learns_from_a_student_that_has_a_neck_already(tmp_path: Path) -> None:
    first = stored(trained("norm", "wrn_16_1").deployed(), tmp_path / "m")
    method = norm.Method(norm.Config(), first, Teacher(tiny.network("resnet14"), tiny.NORMALIZATION), tiny.card())
    method.train()(tiny.batch())
    batch = tiny.batch()
    with torch.inference_mode():
        expected = method.eval()(batch).logits
        torch.testing.assert_close(stored(method.deployed(), tmp_path / "n")(batch.images), expected)


def test_norm_names_a_network_that_runs_no_neck() -> None:
    student = tiny.network()
    student.walk = tiny.network().walk  # another network's pass: the student's own neck never runs
    with pytest.raises(ParamsError, match="resnet8 runs none"):
        norm.Method(norm.Config(), student, Teacher(tiny.network("resnet14"), tiny.NORMALIZATION), tiny.card())


# The neck of the networks' contract


@pytest.mark.parametrize("arch", ["resnet8", "wrn_16_1"])
def test_a_neck_comes_before_what_follows_the_last_block(arch: str, tmp_path: Path) -> None:
    plain = tiny.network(arch).eval()
    model = base.build({"arch": arch, "num_classes": tiny.CLASSES, "neck": 64}).eval()
    assert base.num_parameters(model) == base.num_parameters(plain) + 64 * 64 + 64
    came = model.load_state_dict(plain.state_dict(), strict=False)
    assert (came.missing_keys, came.unexpected_keys) == (["neck.weight", "neck.bias"], [])
    images = tiny.batch().images
    without = plain.features(images).stages[-1]
    tap = model.features(images).stages[-1]
    torch.testing.assert_close(tap.raw, model.neck(without.raw))
    if not model.neck_feeds_pooling:
        torch.testing.assert_close(tap.act, model.bn(tap.raw).relu())
    torch.testing.assert_close(stored(model, tmp_path / "m")(images), model(images))
