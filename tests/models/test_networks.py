"""Networks: exact sizes, the features contract, and BN that runs once."""

import math
from itertools import pairwise

import pytest
import torch
import torchvision
from torch import nn

from pipeline.models import base
from pipeline.system.errors import ParamsError
from tests.distillation.test_method_values_deployed import spoiled
from tests.golden import G, fill

# Parameters with 100 classes, as published.
PARAMETERS = {
    "resnet8": 83_892,
    "resnet14": 181_108,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "wrn_16_1": 180_916,
    "wrn_16_2": 703_284,
    "wrn_16_4": 2_772_020,
    "wrn_28_1": 375_348,
    "wrn_28_2": 1_479_220,
    "wrn_28_4": 5_872_180,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
    "resnet18": 11_227_812,
    "resnet34": 21_335_972,
    "resnet50": 23_712_932,
    "resnet18_cifar": 11_220_132,
    "resnet34_cifar": 21_328_292,
    "resnet50_cifar": 23_705_252,
    "mobilenet_v2_half": 812_836,
    "vgg8": 3_965_028,
    "vgg13": 9_462_180,
    "shufflenet_v1": 949_258,
    "shufflenet_v2": 1_355_528,
}
OTHER_CLASSES = {
    ("resnet20", 10): 272_474,
    ("resnet56", 40): 857_720,
    ("wrn_16_2", 40): 695_544,
    ("wrn_40_2", 10): 2_243_546,
    ("resnet18", 1000): 11_689_512,
    ("resnet34", 1000): 21_797_672,
    ("resnet34", 40): 21_305_192,
    ("resnet50", 1000): 25_557_032,
    ("mobilenet_v2_half", 10): 697_546,
    ("vgg8", 10): 3_918_858,
    ("vgg13", 40): 9_431_400,
    ("shufflenet_v1", 10): 862_768,
    ("shufflenet_v2", 40): 1_294_028,
    ("resnet50_cifar", 10): 23_520_842,
}
# Logits in eval mode and float64 of what golden.py puts in, as the CRD benchmark's code computes them: the first four
# of the first image, and the sum of all absolutes.
LOGITS = {
    "vgg8": ((1.0913255e-4, 1.9592072e-4, 1.2056336e-4, -5.4573223e-5), 0.029971493),
    "vgg13": ((4.4621796e-9, 1.884251e-8, 1.7628622e-8, 1.8251456e-9), 1.9875155e-6),
    "shufflenet_v1": ((5.3507904e-3, -4.4205071e-3, 3.3139392e-3, -2.0752153e-3), 0.84363438),
    "shufflenet_v2": ((-5.5864512e-10, 1.5415282e-8, -9.0835635e-9, -9.733542e-9), 2.016447e-6),
    "resnet50_cifar": ((1.9657206e-4, -1.2706202e-4, 7.8393379e-6, 1.1445039e-4), 0.026637671),
}
RECTIFYING = ("resnet8", "wrn_16_1", "resnet18", "resnet50", "vgg8", "shufflenet_v1")
"""Networks in which a ReLU follows every tap, and the classifier reads the average of the last."""
FAMILIES = (*RECTIFYING, "mobilenet_v2_half", "shufflenet_v2")


def build(arch: str, classes: int = 100) -> base.Classifier:
    torch.manual_seed(0)
    return base.build({"arch": arch, "num_classes": classes})


@pytest.mark.parametrize("arch", PARAMETERS)
def test_parameter_count_is_the_published_one(arch: str) -> None:
    assert base.num_parameters(build(arch)) == PARAMETERS[arch]


@pytest.mark.parametrize(("arch", "classes"), OTHER_CLASSES)
def test_parameter_count_follows_the_classes(arch: str, classes: int) -> None:
    assert base.num_parameters(build(arch, classes)) == OTHER_CLASSES[arch, classes]


@pytest.mark.parametrize(
    ("arch", "blocks"),
    [
        ("resnet20", 9),
        ("resnet56", 27),
        ("wrn_16_2", 6),
        ("wrn_40_2", 18),
        ("resnet34", 16),
        ("resnet50", 16),
        ("mobilenet_v2_half", 17),
    ],
)
def test_number_of_block_taps(arch: str, blocks: int) -> None:
    assert len(base.shapes(build(arch), 32).blocks) == blocks


def test_shapes_of_the_imagenet_form_at_224() -> None:
    shapes = base.shapes(build("resnet18"), 224)
    assert shapes.stem == (64, 112, 112)
    assert shapes.stages == ((64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7))
    assert (shapes.pooled, shapes.classes) == (512, 100)


def test_shapes_of_bottlenecks_at_32() -> None:
    shapes = base.shapes(build("resnet50_cifar"), 32)
    assert shapes.stem == (64, 32, 32)
    assert shapes.stages == ((256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4))
    assert shapes.pooled == 2048


def test_shapes_of_mobilenet_at_32_are_those_that_its_benchmark_compares() -> None:
    shapes = base.shapes(build("mobilenet_v2_half"), 32)
    assert shapes.stem == (16, 16, 16)
    assert shapes.stages == ((12, 16, 16), (16, 8, 8), (48, 4, 4), (160, 2, 2))
    assert shapes.pooled == 1280


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50"])
def test_a_resnet_is_torchvision_s_by_names_and_by_numbers(arch: str) -> None:
    theirs = getattr(torchvision.models, arch)(weights=None)
    spoiled(theirs)
    ours = build(arch, 1000)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert base.num_parameters(ours) == base.num_parameters(theirs)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


def test_mobilenet_is_torchvision_s_but_for_the_first_expansion_and_relu6() -> None:
    # (t, c, n, s) of the benchmark's form for 32 pixels; torchvision leaves out the 1x1 convolution of t = 1.
    settings = [
        [1, 16, 1, 1],
        [6, 24, 2, 1],
        [6, 32, 3, 2],
        [6, 64, 4, 2],
        [6, 96, 3, 1],
        [6, 160, 3, 2],
        [6, 320, 1, 1],
    ]
    theirs = torchvision.models.MobileNetV2(
        100, width_mult=0.5, inverted_residual_setting=settings, round_nearest=1, dropout=0.0
    )
    for module in theirs.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(module, name, nn.ReLU())
    spoiled(theirs)
    ours = build("mobilenet_v2_half").eval()
    first = ours.blocks[0].expand
    assert base.num_parameters(ours) == base.num_parameters(theirs) + base.num_parameters(first)
    with torch.no_grad():
        # The first expansion becomes nothing: what reaches it is not negative, so its ReLU passes all of it.
        conv, norm = first
        conv.weight.copy_(torch.eye(16)[:, :, None, None])
        norm.weight.fill_(math.sqrt(1 + norm.eps))
        here, there = (
            [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.Linear)]
            for network in (ours, theirs)
        )
        for mine, its in zip([m for m in here if m not in (conv, norm)], there, strict=True):
            mine.load_state_dict(its.state_dict())
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs.eval()(images), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("arch", LOGITS)
def test_logits_are_those_of_the_benchmark(arch: str) -> None:
    # In float32 such small numbers lose digits.
    model = fill(build(arch)).double().eval()
    with torch.no_grad():
        logits = model(G((2, 3, 32, 32), 0.4).double())
    first, total = LOGITS[arch]
    assert logits[0, :4].tolist() == pytest.approx(first, rel=1e-5)
    assert float(logits.abs().sum()) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(
    ("arch", "stem", "stages", "pooled"),
    [
        ("vgg13", (64, 32, 32), ((128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 4, 4)), 512),
        ("shufflenet_v1", (24, 32, 32), ((240, 16, 16), (480, 8, 8), (960, 4, 4)), 960),
        ("shufflenet_v2", (24, 32, 32), ((116, 16, 16), (232, 8, 8), (464, 4, 4)), 1024),
    ],
)
def test_shapes_are_those_that_the_benchmark_compares(
    arch: str, stem: tuple[int, ...], stages: tuple[tuple[int, ...], ...], pooled: int
) -> None:
    shapes = base.shapes(build(arch), 32)
    assert (shapes.stem, shapes.stages, shapes.pooled) == (stem, stages, pooled)


def test_a_vgg_pools_once_more_at_64_px() -> None:
    assert [tap.height for tap in base.shapes(build("vgg8"), 64).stages] == [32, 16, 8, 4]


def test_halves_of_shufflenet_v2_are_shuffled_and_every_act_is_the_relu_of_its_pre() -> None:
    model = build("shufflenet_v2")
    features = model.features(torch.randn(2, 3, 32, 32))
    for tap in (features.stem, *features.blocks):
        assert torch.equal(tap.act, tap.pre.relu())
    for before, after in pairwise(features.blocks[:4]):
        # What passes a unit comes out in every second channel.
        assert torch.equal(after.act[:, ::2], before.act[:, : before.act.shape[1] // 2])
    assert not model.fc_reads_average
    torch.testing.assert_close(features.pooled, model.head(features.stages[-1].raw).relu().mean((2, 3)))
    assert model.map_channels == 464


def test_macs_of_wrn_40_2() -> None:
    # 0.66 GFLOP forward at 2 FLOP per multiply-accumulate.
    assert base.count_macs(build("wrn_40_2"), 32) == pytest.approx(0.3276e9, rel=1e-3)


@pytest.mark.parametrize("arch", FAMILIES)
def test_features_and_forward_give_the_same_logits(arch: str) -> None:
    model = build(arch).eval()
    images = torch.randn(3, 3, 32, 32)
    assert torch.equal(model(images), model.features(images).logits)


@pytest.mark.parametrize("arch", RECTIFYING)
def test_every_act_is_the_relu_of_its_pre(arch: str) -> None:
    features = build(arch).features(torch.randn(2, 3, 32, 32))
    for tap in (features.stem, *features.blocks):
        assert torch.equal(tap.act, tap.pre.relu())
        assert (tap.pre < 0).any(), "a rectified `pre` is not the value before the ReLU"
    torch.testing.assert_close(features.pooled, features.stages[-1].act.mean((2, 3)))


def test_blocks_of_mobilenet_hand_on_what_is_linear() -> None:
    model = build("mobilenet_v2_half").eval()
    features = model.features(torch.randn(2, 3, 32, 32))
    assert torch.equal(features.stem.act, features.stem.pre.relu())
    for tap in features.blocks:
        assert tap.raw is tap.pre is tap.act
        assert (tap.raw < 0).any()
    assert not model.fc_reads_average
    assert (features.pooled >= 0).all()
    assert torch.equal(features.logits, model.fc(features.pooled))


def test_the_neck_of_mobilenet_comes_behind_the_last_block_and_changes_all_that_follows() -> None:
    model = build("mobilenet_v2_half").eval()
    images = torch.randn(2, 3, 32, 32)
    before = model.features(images)
    model.neck = nn.Conv2d(model.map_channels, model.map_channels, 1)
    after = model.features(images)
    assert torch.equal(after.stages[-1].pre, before.stages[-1].raw)
    torch.testing.assert_close(after.stages[-1].raw, model.neck(before.stages[-1].raw))
    assert after.stages[-1].act is after.stages[-1].raw
    torch.testing.assert_close(after.pooled, model.head(after.stages[-1].raw).relu().mean((2, 3)))
    torch.testing.assert_close(after.logits, model(images))


def test_a_mobilenet_without_its_head_still_walks() -> None:
    model = build("mobilenet_v2_half")
    model.drop_head()
    *_, last = model.walk(torch.randn(2, 3, 32, 32))
    assert last.raw.shape == (2, model.map_channels, 2, 2)
    # The last convolution, its BN, and the classifier.
    assert base.num_parameters(model) == 812_836 - (160 * 1280 + 2 * 1280) - (1280 * 100 + 100)


def test_under_autocast_what_mobilenet_pools_is_float32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = build("mobilenet_v2_half").features(torch.randn(2, 3, 32, 32))
    assert features.stages[-1].raw.dtype is torch.bfloat16
    assert (features.pooled.dtype, features.logits.dtype) == (torch.float32, torch.float32)


def test_raw_is_post_activation_in_resnet_and_a_residual_sum_in_wrn() -> None:
    images = torch.randn(2, 3, 32, 32)
    for tap in build("resnet8").features(images).stages:
        assert torch.equal(tap.raw, tap.act)
    for tap in build("wrn_16_1").features(images).stages:
        assert (tap.raw < 0).any()
        assert not torch.equal(tap.raw, tap.pre)


@pytest.mark.parametrize("arch", FAMILIES)
def test_looking_inside_runs_every_bn_once(arch: str) -> None:
    model = build(arch).train()
    model.features(torch.randn(4, 3, 32, 32))
    counts = {int(m.num_batches_tracked) for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    assert counts == {1}


@pytest.mark.parametrize("arch", [arch for arch in FAMILIES if not arch.startswith("shufflenet")])
def test_stage_norms_produce_the_pre_taps(arch: str) -> None:
    model = build(arch).eval()
    outputs: dict[int, torch.Tensor] = {}
    for number, norm in enumerate(model.stage_norms()):
        norm.register_forward_hook(lambda _, __, out, number=number: outputs.__setitem__(number, out))
    features = model.features(torch.randn(2, 3, 32, 32))
    for number, tap in enumerate(features.stages):
        assert outputs[number].shape == tap.pre.shape
        # Elsewhere the tap also holds the shortcut; the last block of a MobileNet has none.
        if arch.startswith(("wrn", "vgg")) or (arch.startswith("mobilenet") and tap is features.stages[-1]):
            assert torch.equal(outputs[number], tap.pre)


def test_shapes_leave_the_model_as_it_was() -> None:
    model = build("wrn_16_1").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    base.shapes(model, 32)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        ("resnet21", "resnet20"),
        ("resnt20", "did you mean 'resnet'"),
        ("vgg14", r"did you mean 'vgg1\d'"),
        ("shufflenet_v3", "shufflenet_v2"),
        ("wrn_17_2", "6n \\+ 4"),
        ("mobilenet_v2", r"did you mean 'mobilenet_v2_half'\?\).*timm/mobilenetv2_100"),
        ("20", "The known ones are"),
    ],
)
def test_unknown_network_is_named_with_what_there_is(arch: str, said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        build(arch)
