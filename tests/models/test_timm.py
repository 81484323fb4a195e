"""Networks of timm behind the contract of every network: what they share, what each lacks, and who says so."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

from pipeline.deployment import export
from pipeline.distillation import crd
from pipeline.distillation.base import Teacher, find
from pipeline.models import base, checkpoint
from pipeline.models import timm as family
from pipeline.settings import params as parameters
from pipeline.settings.reading import parse
from pipeline.sweep.rehearsal import rehearse
from pipeline.system.errors import CheckpointError, ParamsError
from serve.model.classifier import OnnxClassifier
from stages.preflight import preflight
from tests import tiny, toy
from tests.distillation import test_methods as contract
from tests.models import test_checkpoint

pytestmark = pytest.mark.slow

ROUND_TRIPS = ("timm/resnet18", "timm/mobilenetv3_small_100")
NETWORKS = ("timm/test_resnet", "timm/test_efficientnet", "timm/test_convnext", "timm/test_vit", *ROUND_TRIPS)
OFD = "ofd takes its margins from the batch normalisation behind each stage of the teacher, but timm/.* names none"
AVERAGE = "in timm/test_{} more than an average lies between"
CLASS_MAPS = f"catkd weighs the channels of the student's last map .* {AVERAGE}"
CHANNELS = r"kdsvd compares the channels .* student have \[.*\] channels and those of the teacher \[.*\]"
REGIONS = f"sdd lets the student's classifier read the averages of regions of its last map, but {AVERAGE}"
HEAD = "lets the teacher's classifier read the average of a map made by the student, but in timm/test_mambaout"
# A pair, and which methods refuse it, by what they say. Of ofd alone there is no pair that it serves: the others that
# refuse both of these have one in ALIKE.
PAIRS: dict[tuple[str, str], dict[str, str]] = {
    ("timm/test_efficientnet", "timm/test_resnet"): {
        "catkd": CLASS_MAPS.format("efficientnet"),
        "kdsvd": CHANNELS,
        "sdd": REGIONS.format("efficientnet"),
        "ofd": OFD,
        "norm": "norm needs a student that runs a neck, but timm/test_efficientnet runs none",
    },
    ("timm/test_convnext", "timm/test_mambaout"): {
        "catkd": CLASS_MAPS.format("convnext"),
        "kdsvd": CHANNELS,
        "sdd": REGIONS.format("convnext"),
        "ofd": OFD,
        "simkd": f"simkd {HEAD}",
        "srrl": f"srrl {HEAD}",
    },
}
ALIKE = ("timm/test_resnet", "timm/test_resnet")
every_pair = pytest.mark.parametrize("pair", PAIRS, ids=" to ".join)
every_network = pytest.mark.parametrize("arch", NETWORKS)


@pytest.fixture(autouse=True)
def larger_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of timm divide an image by 32: at 32 px the last map would be a single place."""
    monkeypatch.setattr(tiny, "IMAGE_PX", 64)


def settings(**changes: Any) -> parameters.Params:
    raw = {"data": {"image_px": 64}} | changes
    return parse(parameters.Params, raw, "", "params.yaml")


@every_pair
@contract.every_method
def test_a_method_serves_a_pair_or_says_why_not(name: str, pair: tuple[str, str]) -> None:
    if name in PAIRS[pair]:
        with pytest.raises(ParamsError, match=PAIRS[pair][name]):
            tiny.method(name, *pair)
        return
    for check in contract.CHECKS:
        check(name, *pair)


@pytest.mark.parametrize("name", ["catkd", "kdsvd", "sdd"])
def test_a_method_that_refuses_both_pairs_serves_networks_that_are_alike(name: str) -> None:
    for check in contract.CHECKS:
        # Fresh residual branches of timm's ResNets end in 0, so that their first convolutions have no gradient yet.
        if check is not contract.test_gradients_reach_everything_that_claims_to_train:
            check(name, *ALIKE)


@every_pair
@contract.every_method
def test_what_a_method_refuses_is_known_before_training_starts(name: str, pair: tuple[str, str]) -> None:
    distill = {"methods": {name: {}}, "train": {"drop_last": True}}
    params = settings(student={"arch": pair[0]}, teacher={"arch": pair[1]}, distill=distill)
    if name in PAIRS[pair]:
        with pytest.raises(ParamsError, match=PAIRS[pair][name]):
            rehearse(params)
    else:
        rehearse(params)


@every_network
def test_features_forward_and_timms_own_forward_give_the_same_logits(arch: str) -> None:
    model = tiny.network(arch).eval()
    images = tiny.batch().images
    logits = model(images)
    torch.testing.assert_close(logits, model.net(images), rtol=1e-6, atol=1e-6)
    features = model.features(images)
    torch.testing.assert_close(features.logits, logits, rtol=0, atol=0)
    torch.testing.assert_close(model.fc(features.pooled), logits, rtol=0, atol=0)


@pytest.mark.parametrize("arch", [name for name in NETWORKS if name not in ("timm/test_convnext", "timm/test_vit")])
def test_looking_inside_runs_every_bn_once(arch: str) -> None:
    model = tiny.network(arch).train()
    model.features(tiny.batch().images)
    counts = [int(m.num_batches_tracked) for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert set(counts) == {1}
    model(tiny.batch().images)
    counts = [int(m.num_batches_tracked) for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert set(counts) == {2}


@every_network
def test_a_tap_is_what_was_there_before_the_network_went_on(arch: str) -> None:
    model = tiny.network(arch).eval()
    images = tiny.batch().images
    features = model.features(images)
    taps = (features.stem, *features.stages)[-len(model._indices) :]
    for walked, tap in zip(model.walk(images), (features.stem, *features.blocks), strict=True):
        assert tap.raw is tap.pre is tap.act
        assert torch.equal(walked.act, tap.act)
    for index, tap in zip(model._indices, taps, strict=True):
        (alone,) = model.net.forward_intermediates(images, [index], stop_early=True, intermediates_only=True)
        torch.testing.assert_close(tap.act, alone, rtol=0, atol=0)


def test_stages_are_one_tap_of_each_reduction_from_4_on() -> None:
    sizes = base.shapes(tiny.network("timm/resnet18"), 64)
    assert sizes.stem == (64, 32, 32)
    assert sizes.stages == sizes.blocks == ((64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2))
    assert sizes.pooled == 512
    sizes = base.shapes(tiny.network("timm/mobilenetv3_small_100"), 64)
    assert sizes.stages == ((16, 16, 16), (24, 8, 8), (48, 4, 4), (576, 2, 2))
    assert sizes.pooled == 1024


@pytest.mark.parametrize(
    ("reductions", "expected"),
    [
        ([2, 4, 8, 16, 32], [1, 2, 3, 4]),
        ([4, 8, 16, 32], [0, 1, 2, 3]),
        ([1, 2, 4, 8, 16, 32], [2, 3, 4, 5]),
        ([8, 8, 16, 32, 64], [1, 2, 3, 4]),
        ([16] * 12, [2, 5, 8, 11]),
        ([16] * 3, [0, 1, 2]),
        ([16], [0]),
    ],
)
def test_stages_follow_from_reductions(reductions: list[int], expected: list[int]) -> None:
    assert family._stages(reductions) == expected


@pytest.mark.parametrize(
    ("arch", "average", "neck"),
    [
        ("timm/resnet18", True, True),
        ("timm/mobilenetv3_small_100", False, False),  # a convolution behind the pooling
        ("timm/test_efficientnet", False, False),  # a convolution behind the last map
        ("timm/test_convnext", False, False),  # a LayerNorm behind the pooling
        ("timm/test_vit", False, False),
        ("timm/starnet_s050", False, False),  # a fresh BN behind the last map: all but the same numbers
    ],
)
def test_what_lies_between_the_last_map_and_the_classifier_is_measured(arch: str, average: bool, neck: bool) -> None:
    model = tiny.network(arch)
    assert (model.fc_reads_average, model.neck_feeds_pooling) == (average, neck)


@pytest.mark.parametrize(
    ("arch", "extra"), [("timm/resnet18", 0), ("timm/test_convnext", 64 * 64 + 64), ("timm/test_resnet", 0)]
)
def test_norm_folds_into_the_head_where_only_an_average_follows_and_ships_a_neck_elsewhere(
    arch: str, extra: int
) -> None:
    method = tiny.method("norm", arch, "resnet14").train()
    method(tiny.batch(seed=1))
    shipped = method.eval().deployed()
    assert base.num_parameters(shipped) == base.num_parameters(tiny.network(arch)) + extra
    images = tiny.batch().images
    torch.testing.assert_close(shipped.eval()(images), method(tiny.batch()).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["afd", "sakd_sparse"])
def test_methods_with_block_taps_say_once_that_stages_take_their_place(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.method(name, "timm/test_resnet", "timm/test_efficientnet").train()(tiny.batch())
    assert capsys.readouterr().err == (
        f"{name} compares residual blocks, but only the stages of timm/test_resnet and timm/test_efficientnet can be "
        "seen, so they take the blocks' place.\n"
    )
    tiny.method(name, "resnet8", "timm/test_resnet")
    assert "only the stages of timm/test_resnet can" in capsys.readouterr().err
    tiny.method(name, "resnet8", "resnet14")
    assert capsys.readouterr().err == ""


def test_stages_that_were_asked_for_need_no_remark(capsys: pytest.CaptureFixture[str]) -> None:
    tiny.method("sakd_sparse", "timm/test_resnet", "timm/test_resnet", taps="stages")
    assert capsys.readouterr().err == ""


def test_under_autocast_pooled_and_logits_are_float32() -> None:
    model = tiny.network("timm/mobilenetv3_small_100").train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = model.features(tiny.batch().images)
        assert model(tiny.batch().images).dtype is torch.float32
    assert features.stages[1].raw.dtype is torch.bfloat16
    assert (features.pooled.dtype, features.logits.dtype) == (torch.float32, torch.float32)


def test_the_same_seed_gives_the_same_network() -> None:
    one, other = (tiny.network("timm/test_resnet").state_dict() for _ in range(2))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def header(model: base.Classifier) -> checkpoint.Header:
    return test_checkpoint.header().model_copy(update={"model": dict(model.spec)})


def trained(arch: str) -> base.Classifier:
    model = tiny.network(arch)
    model.train()(torch.randn(16, 3, 64, 64))  # BN statistics that are not the initial ones
    return model.eval()


@pytest.mark.parametrize("arch", ROUND_TRIPS)
def test_a_saved_network_comes_back(arch: str, tmp_path: Path) -> None:
    model = trained(arch).to(memory_format=torch.channels_last)
    checkpoint.save(model, header(model), tmp_path / "m")
    loaded, said = checkpoint.load(tmp_path / "m")
    assert said.model == {"arch": arch, "num_classes": tiny.CLASSES}
    images = tiny.batch().images
    torch.testing.assert_close(loaded(images), model(images))


def test_a_reused_head_on_a_body_of_timm_comes_back_without_what_it_does_not_run(tmp_path: Path) -> None:
    method = tiny.method("simkd", "timm/mobilenetv3_small_100", "timm/test_resnet").train()
    method(tiny.batch())
    model = method.eval().deployed()
    checkpoint.save(model, header(model), tmp_path / "m")
    loaded, _ = checkpoint.load(tmp_path / "m")
    images = tiny.batch().images
    torch.testing.assert_close(loaded(images), model(images))
    assert not [name for name in loaded.state_dict() if "conv_head" in name or "classifier" in name]
    assert not loaded.has_block_taps


@pytest.mark.parametrize("arch", ROUND_TRIPS)
def test_the_exported_file_computes_the_same(arch: str, tmp_path: Path) -> None:
    model = trained(arch)
    servable = export.Servable(model, tiny.NORMALIZATION)
    card = export.make_card("student", header(model), {"top1": 12.5})
    assert card["arch"] == arch
    export.write_onnx(servable, card, tmp_path / "m.onnx", 20)
    classifier = OnnxClassifier(tmp_path / "m.onnx", device="cpu")
    pixels = tiny.split(8, image_px=64).images
    records = export.check_parity(servable, classifier.outputs, pixels, (1, 3), 1e-5)
    assert all(record["top1_equal"] for record in records)


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        ("timm/resnt18", r"there is no 'timm/resnt18' \(did you mean 'timm/resnet18'\?\)"),
        ("timm/", "there is no 'timm/'"),
        ("timm/resnet18.a9_in1k", r"did you mean 'timm/resnet18.a\d_in1k'\?\): timm knows no weights 'a9_in1k'"),
        ("timm/resnetv2_18", "its classifier is a Conv2d, not one nn.Linear"),
        ("timm/levit_128s", "its classifier is a tuple, not one nn.Linear"),
        ("timm/efficientvit_m0", "more than one nn.Linear stands behind its pooled features"),
    ],
)
def test_a_network_that_cannot_be_had_is_named_with_the_reason(arch: str, said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        base.build({"arch": arch, "num_classes": 4})


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize(
    ("arch", "said"),
    [
        (
            "timm/vit_tiny_patch16_224",
            r"cannot be made for images of 72 x 72 px \(of which its patches of 16 px leave 8 px unseen\)\. By itself "
            "it is made for 224 px: give it images of that size",
        ),
        ("timm/inception_v3", "cannot take images of 72 x 72 px .*Raise data.image_px"),
    ],
)
def test_images_that_a_network_cannot_take_are_known_before_training_starts(arch: str, said: str, role: str) -> None:
    with pytest.raises(ParamsError, match=said):
        rehearse(settings(**{role: {"arch": arch}}, data={"image_px": 72}))


def test_a_network_of_a_fixed_size_says_so_in_training_too() -> None:
    with pytest.raises(ParamsError, match=r"It is made for 224 px: give it images of that size"):
        tiny.network("timm/vit_tiny_patch16_224").train()(tiny.batch().images)


def test_a_network_of_a_fixed_size_works_at_that_size() -> None:
    sizes = base.shapes(tiny.network("timm/vit_tiny_patch16_224"), 224)
    assert sizes.stages == ((192, 14, 14),) * 4


@pytest.mark.parametrize("arch", ["timm/vit_tiny_patch16_224", "timm/swin_tiny_patch4_window7_224"])
def test_a_network_of_a_fixed_size_is_made_for_the_size_of_its_images_and_comes_back(arch: str, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    spec = base.spec_of(arch, tiny.CLASSES, 64)
    assert torch.equal(torch.get_rng_state(), before)
    assert spec == {"arch": arch, "num_classes": tiny.CLASSES, "image_px": 64}
    model = base.build(spec).eval()
    checkpoint.save(model, header(model), tmp_path / "m")
    loaded, found = checkpoint.load(tmp_path / "m")
    assert found.model == spec
    images = tiny.batch().images
    torch.testing.assert_close(loaded(images), model(images))
    with pytest.raises(ParamsError, match=r"cannot take images of 96 x 96 px .*It is made for 64 px"):
        base.shapes(loaded, 96)


@pytest.mark.parametrize(
    ("arch", "px"),
    [
        ("timm/test_vit", 64),
        ("timm/vit_tiny_patch16_224", 224),
        ("timm/resnet18", 64),
        ("timm/xcit_nano_12_p8_224", 64),
        ("resnet8", 16),
    ],
)
def test_the_spec_of_a_network_that_takes_its_images_anyway_holds_no_size(arch: str, px: int) -> None:
    assert base.spec_of(arch, 4, px) == {"arch": arch, "num_classes": 4}


def test_teacher_and_student_of_a_fixed_size_are_made_each_for_its_own() -> None:
    arch, methods = "timm/vit_tiny_patch16_224", {"kd": {"kl_weight": 0.9}, "at": {}}
    pair = {"teacher": {"arch": arch}, "distill": {"methods": methods}, "deploy": {"method": "kd"}}
    rehearse(settings(**pair, student={"arch": arch, "image_px": 32}))
    with pytest.raises(ParamsError, match=rf"student\.arch: {arch} cannot be made for images of 40 x 40 px"):
        rehearse(settings(**pair, student={"arch": arch, "image_px": 40}))


def test_pretrained_weights_are_fitted_to_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = base.spec_of("timm/vit_tiny_patch16_224", tiny.CLASSES, 64)
    weights = timm.create_model("vit_tiny_patch16_224", num_classes=tiny.CLASSES)
    save_file(weights.state_dict(), tmp_path / "weights.safetensors")
    create = timm.create_model
    overlay = {"file": str(tmp_path / "weights.safetensors"), "num_classes": tiny.CLASSES}
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: create(*a, **k, pretrained_cfg_overlay=overlay))
    model = base.build_to_train(spec, True, "student")
    assert isinstance(model, family.Timm)
    assert model.net.pos_embed.shape == (1, 1 + 4 * 4, 192)
    torch.testing.assert_close(model.net.patch_embed.proj.weight, weights.patch_embed.proj.weight)
    assert base.shapes(model, 64).stages[-1] == (192, 4, 4)


@contract.every_method
def test_a_teacher_of_other_classes_serves_methods_that_compare_no_predictions(name: str) -> None:
    module, student = find(name), tiny.network("timm/test_convnext")
    teacher = Teacher(tiny.network("resnet14", classes=7).eval(), tiny.NORMALIZATION)
    weights = {"kl_weight": 0.0} if module.Method.needs_teacher else {}
    config = module.Config(**(tiny.SETTINGS.get(name, {}) | weights))
    refused = {
        "simkd": "ships the teacher's classifier, which knows 7 classes, but the data set has 4",
        "ofd": "the student has 4 stages and the teacher 3",
        "reviewkd": "the student has 4 stages and the teacher 3",
        "sakd": "Choose networks with the same stages",
        "kdsvd": r"student have \[24, 32, 48, 64\] channels and those of the teacher \[16, 32, 64\]",
    }
    if module.Method.compares_logits:
        refused[name] = "compares predictions, but the teacher knows 7 classes and the data set has 4"
    if name in refused:
        with pytest.raises(ParamsError, match=refused[name]):
            module.Method(config, student, teacher, tiny.card())
        return
    method = module.Method(config, student, teacher, tiny.card()).train()
    assert all(term.isfinite() for term in method(tiny.batch()).terms.values())


# Pretrained weights ---------------------------------------------------------------------------------------------------


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub where nobody answers, and an empty cache."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_pretrained_weights_that_cannot_be_had_are_one_paragraph_after_one_try(
    no_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = timm.create_model
    offline: list[bool] = []

    def watched(*given: Any, **named: Any) -> Any:
        offline.append(constants.HF_HUB_OFFLINE)
        return create(*given, **named)

    monkeypatch.setattr(timm, "create_model", watched)
    with pytest.raises(CheckpointError) as caught:
        base.build_to_train({"arch": "timm/test_resnet", "num_classes": 4}, True, "teacher")
    assert offline == [True]
    said = str(caught.value)
    assert said.startswith(f"the pretrained weights of timm/test_resnet are not in the cache ({no_hub}) and could not")
    assert "be fetched from http://127.0.0.1:9" in said
    assert "Connection refused" in said  # why, and not that its client was told to stay offline
    assert "HF_HOME" in said
    assert "set pretrained to false" in said
    assert "\n" not in said
    assert not constants.HF_HUB_OFFLINE


def test_cached_pretrained_weights_need_no_network(no_hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = no_hub / "models--timm--test_resnet.r160_in1k"
    folder = repository / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    published = tiny.network("timm/test_resnet", classes=1000, seed=5)
    save_file(published.net.state_dict(), folder / "model.safetensors")
    came = base.build_to_train({"arch": "timm/test_resnet", "num_classes": 4}, True, "student")
    assert came.fc.out_features == 4
    for name, tensor in came.net.state_dict().items():
        assert name.startswith("fc.") or torch.equal(tensor, published.net.state_dict()[name]), name
    assert capsys.readouterr().err == "pretrained weights timm/test_resnet.r160_in1k, licence apache-2.0\n"
    # What was trained is rebuilt without them.
    shutil.rmtree(no_hub)
    checkpoint.save(came, header(came), no_hub.parent / "m")
    loaded, _ = checkpoint.load(no_hub.parent / "m")
    assert torch.equal(loaded.net.conv1[0].weight, came.net.conv1[0].weight)


@pytest.mark.parametrize("arch", ["resnet20", "wrn_16_1", "timm/resnet50t", "timm/resnet18d.none"])
def test_a_network_without_pretrained_weights_is_named(arch: str) -> None:
    said = "knows no weights 'none'" if "." in arch else f"there are no pretrained weights of {arch}.*timm/resnet18"
    with pytest.raises(ParamsError, match=said):
        base.build_to_train({"arch": arch, "num_classes": 4}, True, "student")


def test_pretrained_weights_that_do_not_exist_are_known_before_training_starts() -> None:
    with pytest.raises(
        ParamsError, match=r"teacher\.pretrained is true, but there are no pretrained weights of resnet56"
    ):
        rehearse(settings(teacher={"pretrained": True}))
    with pytest.raises(ParamsError, match=r"student\.pretrained is true, but there are no pretrained weights of timm/"):
        rehearse(settings(student={"arch": "timm/resnet50t", "pretrained": True}))


def test_pretrained_weights_that_cannot_be_had_are_found_by_preflight_until_they_are_needed_no_more(
    no_hub: Path, tmp_path: Path
) -> None:
    shutil.copy(toy.ROOT / "params.yaml", tmp_path)
    networks = {"student.arch": "timm/test_resnet", "student.pretrained": True}
    toy.edit(tmp_path, networks | {"distill.methods": {"kd": {}}, "deploy.method": "kd"})
    places = tmp_path / "params.yaml", tmp_path / "artifacts/preflight"
    with pytest.raises(CheckpointError, match="pretrained weights of timm/test_resnet are not in the cache"):
        preflight(*places)
    for arch, method in (("resnet8", "vanilla"), ("timm/test_resnet", "kd")):
        path = tmp_path / f"artifacts/students/{method}/0/model.safetensors"
        path.parent.mkdir(parents=True)
        model = tiny.network(arch)
        checkpoint.save(model, header(model), path)
    preflight(*places)


def test_pretrained_and_weights_exclude_each_other() -> None:
    with pytest.raises(ParamsError, match="with weights nothing is trained"):
        settings(teacher={"arch": "timm/resnet18", "pretrained": True, "weights": "w"})


# Preflight ------------------------------------------------------------------------------------------------------------


def test_with_the_weights_of_a_pruned_teacher_the_student_alone_is_tried() -> None:
    rehearse(settings(teacher={"arch": "pruned", "weights": "w"}))
    with pytest.raises(ParamsError, match="there is no 'resnet21'"):
        rehearse(settings(teacher={"arch": "pruned", "weights": "w"}, student={"arch": "resnet21"}))


def test_rehearsing_a_method_with_banks_allocates_none_for_the_real_data(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []

    class Watched(crd.Contrast):
        def __init__(self, pooled_s: int, pooled_t: int, num_images: int, config: crd.Config) -> None:
            rows.append(num_images)
            super().__init__(pooled_s, pooled_t, num_images, config)

    monkeypatch.setattr(crd, "Contrast", Watched)
    rehearse(settings(distill={"methods": {"crd": {}, "vanilla": {}}}))
    assert len(rows) == 1
    assert rows[0] < 100


def test_the_fingerprint_of_a_network_of_timm_holds_timms_version(tmp_path: Path) -> None:
    shutil.copy(toy.ROOT / "params.yaml", tmp_path)
    toy.edit(tmp_path, {"student.arch": "timm/test_resnet", "distill.methods": {"kd": {}}, "deploy.method": "kd"})
    preflight(tmp_path / "params.yaml", tmp_path / "out")
    found = {role: json.loads((tmp_path / f"out/{role}.json").read_text()) for role in ("student", "teacher")}
    assert found["student"].keys() == {"timm", "reused", "package timm"}
    assert found["student"]["package timm"] == family.timm.__version__
    assert found["teacher"].keys() == {"resnet", "reused"}
