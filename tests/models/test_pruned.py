"""A student cut from its teacher: its size, its weights, its file; and what cannot be cut."""

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from pipeline.distillation.base import Teacher, find
from pipeline.models import checkpoint, cutting, pruned
from pipeline.models.base import Classifier, build, count_macs, shapes, title
from pipeline.models.checkpoint import Header
from pipeline.settings.networks import Pruned, Student
from pipeline.settings.reading import parse
from pipeline.system import registry
from pipeline.system.errors import CheckpointError, ParamsError
from tests import tiny

ARCHS = ("resnet8", "wrn_10_2", "mobilenet_v2_half", "timm/test_resnet", "timm/test_convnext")
PX = tiny.IMAGE_PX
SMALL = Pruned(share_of_macs=0.5, round_to=4)
Shown = tuple[torch.Tensor, torch.Tensor]


def taught(arch: str, px: int = PX) -> Classifier:
    """With BN statistics that are not the initial ones."""
    network = tiny.network(arch)
    network.train()(torch.randn(16, 3, px, px))
    return network.eval()


def student_of(network: Classifier, px: int = PX, settings: Pruned = SMALL, images: Sequence[Shown] = ()) -> Classifier:
    return cutting.student_of(network, px, settings, lambda candidate: 0.0, images).eval()


@pytest.mark.parametrize("arch", ARCHS)
def test_it_is_as_large_as_asked_for_and_comes_back_from_its_file(arch: str, tmp_path: Path) -> None:
    px = 64 if arch.startswith("timm/") else PX
    teacher = taught(arch, px)
    before = copy.deepcopy(teacher.state_dict())
    student = student_of(teacher, px)
    assert 0.25 < count_macs(student, px) / count_macs(teacher, px) <= 0.5
    mine, theirs = shapes(student, px), shapes(teacher, px)
    assert [tap[1:] for tap in mine.stages] == [tap[1:] for tap in theirs.stages]
    assert mine.stages[-1].channels == student.map_channels < theirs.stages[-1].channels
    assert title(student.spec) == f"{arch} pruned"
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    checkpoint.save(student, header(student), tmp_path / "m")
    loaded, _ = checkpoint.load(tmp_path / "m")
    images = torch.randn(2, 3, px, px)
    torch.testing.assert_close(loaded(images), student.eval()(images), rtol=0, atol=0)


def header(model: Classifier) -> Header:
    return Header(
        model=dict(model.spec),
        labels=tiny.card().labels,
        image_px=PX,
        normalization=tiny.NORMALIZATION,
        method=None,
        seed=0,
        params_sha256="0" * 64,
        data_sha256="0" * 64,
        licence=None,
    )


def test_what_stays_has_the_weights_of_the_teacher() -> None:
    teacher = taught("resnet8")
    student = student_of(teacher)
    rows = {tuple(row.flatten().tolist()) for row in teacher.conv1.weight}
    kept = [tuple(row.flatten().tolist()) for row in student.conv1.weight]
    assert len(kept) < len(rows)
    assert set(kept) < rows


def test_channels_are_multiples_and_no_layer_falls_below_one() -> None:
    network = pruned.cut(tiny.network("resnet8"), PX, 1 / 64, 8)
    assert {tap.channels for tap in shapes(network, PX).blocks} == {8}
    assert {tap.channels for tap in shapes(pruned.cut(tiny.network("resnet8"), PX, 1 / 64, 1), PX).blocks} == {1}


def test_sizes_do_not_depend_on_weights() -> None:
    one, other = (pruned.cut(tiny.network("wrn_10_2", seed=seed), PX, 0.6, 4) for seed in (0, 1))
    assert shapes(one, PX) == shapes(other, PX)
    assert one.spec["history"] != other.spec["history"]


def test_taylor_keeps_the_channels_that_the_loss_needs() -> None:
    network = taught("resnet8")
    with torch.no_grad():
        network.layer1[0].conv1.weight *= torch.linspace(1, 3, 16).view(-1, 1, 1, 1)  # nothing, with a BN behind it
    taylor = SMALL.model_copy(update={"importance": "taylor"})
    shown = [(tiny.batch().images, tiny.batch().labels)]
    by_size, by_gradient = student_of(network, images=shown), student_of(network, settings=taylor, images=shown)
    assert by_size.spec["history"] != by_gradient.spec["history"]
    assert all(parameter.grad is None for model in (network, by_gradient) for parameter in model.parameters())


@pytest.mark.parametrize("arch", ["resnet20", "wrn_16_1", "mobilenet_v2_half", "timm/resnet18", "timm/convnext_atto"])
def test_whole_blocks_go_and_it_comes_back_from_its_file(arch: str, tmp_path: Path) -> None:
    px = 64 if arch.startswith("timm/") else PX
    teacher = taught(arch, px)
    student = student_of(teacher, px, Pruned(share_of_macs=0.9, cut="blocks"))
    assert count_macs(student, px) <= 0.9 * count_macs(teacher, px)
    assert shapes(student, px).stages == shapes(teacher, px).stages
    assert student.spec["blocks"]
    checkpoint.save(student, header(student), tmp_path / "m")
    loaded, _ = checkpoint.load(tmp_path / "m")
    images = torch.randn(2, 3, px, px)
    torch.testing.assert_close(loaded(images), student(images), rtol=0, atol=0)


def test_the_block_goes_that_changes_least_of_what_it_is_given() -> None:
    teacher = taught("resnet20")
    with torch.no_grad():
        teacher.get_parameter("layer2.1.bn2.weight").mul_(1e-3)
        teacher.get_parameter("layer2.1.bn2.bias").mul_(1e-3)
    images, labels = torch.rand(8, 3, PX, PX), torch.zeros(8)
    before = teacher(images)
    assert cutting.order_of(teacher, [(images, labels)])[0] == "layer2.1"
    student = pruned.shorten(teacher, PX, 0.99, cutting.order_of(teacher, [(images, labels)]))
    assert student.spec["blocks"] == ["layer2.1"]
    torch.testing.assert_close(student.eval()(images), before, rtol=1e-2, atol=1e-2)


def test_without_images_blocks_go_evenly_until_the_stages_are_those_of_a_smaller_sibling() -> None:
    student = student_of(taught("resnet56"), settings=Pruned(share_of_macs=0.3246, cut="blocks"))
    assert shapes(student, PX) == shapes(tiny.network("resnet20"), PX)
    assert student.block_names() == tiny.network("resnet20").block_names()


def test_the_largest_that_is_fast_enough_is_found() -> None:
    teacher, asked = tiny.network("resnet8"), []

    def speedup_of(candidate: Classifier) -> float:
        asked.append(count_macs(candidate, PX))
        return count_macs(teacher, PX) / asked[-1]

    student = cutting.student_of(teacher, PX, Pruned(speedup=3, round_to=1), speedup_of)
    macs = count_macs(student, PX)
    assert macs <= count_macs(teacher, PX) / 3
    assert macs == max(size for size in asked if size <= count_macs(teacher, PX) / 3)
    assert len(asked) <= 7


@pytest.mark.parametrize("name", registry.names("pipeline.distillation"))
@pytest.mark.parametrize("cut", ["channels", "blocks"])
def test_every_method_trains_it_or_says_why_not(name: str, cut: str) -> None:
    teacher = taught("resnet14")
    config = find(name).Config(**tiny.SETTINGS.get(name, {}))
    student = student_of(teacher, settings=SMALL.model_copy(update={"cut": cut, "share_of_macs": 0.9}))
    if (name, cut) == ("kdsvd", "channels"):
        with pytest.raises(ParamsError, match="kdsvd compares the channels of the networks' stages one by one"):
            find(name).Method(config, student, Teacher(teacher, tiny.NORMALIZATION), tiny.card())
        return
    method = find(name).Method(config, student, Teacher(teacher, tiny.NORMALIZATION), tiny.card())
    method.begin(torch.from_numpy(tiny.split().labels))
    sum(method.train()(tiny.batch()).terms.values()).backward()
    deployed = method.eval().deployed()
    again = build(deployed.spec)
    again.load_state_dict(deployed.state_dict())


def test_a_target_out_of_reach_names_the_nearest() -> None:
    with pytest.raises(ParamsError, match=r"share_of_macs is 0.05, .* multiples of 16 the smallest .* has 0\.\d+ of"):
        student_of(tiny.network("resnet8"), settings=Pruned(share_of_macs=0.05))
    with pytest.raises(ParamsError, match=r"speedup is 9, .* has 2.50 times its speed"):
        cutting.student_of(tiny.network("resnet8"), PX, Pruned(speedup=9), lambda candidate: 2.5)
    with pytest.raises(ParamsError, match=r"with one block left of each stage .* or set cut: channels"):
        student_of(tiny.network("resnet20"), settings=Pruned(share_of_macs=0.05, cut="blocks"))


def test_what_cannot_be_cut_says_so() -> None:
    with pytest.raises(ParamsError, match="is a pruned network itself"):
        student_of(student_of(tiny.network("resnet8")))
    with pytest.raises(ParamsError, match="timm/test_vit cannot be pruned"):
        student_of(tiny.network("timm/test_vit"), 160)
    with pytest.raises(ParamsError, match="not a network to train from the start"):
        build({"arch": "pruned", "num_classes": 4})


@pytest.mark.parametrize("blocks", [["layer9.0"], ["conv1"], ["layer1.0.conv1"], [3], ["layer2.0"]])
def test_blocks_that_a_network_lacks_are_refused(blocks: list[object]) -> None:
    spec = student_of(tiny.network("resnet8")).spec | {"history": [], "blocks": blocks}
    with pytest.raises(CheckpointError, match="what was pruned does not fit a resnet8"):
        build(spec)


def test_a_header_that_lacks_what_was_done_to_the_network_is_refused() -> None:
    body = {"arch": "resnet8", "num_classes": 4}
    with pytest.raises(CheckpointError, match=r"what was pruned does not fit a resnet8 .*'history'"):
        build({"arch": "pruned", "num_classes": 4, "body": body})
    with pytest.raises(CheckpointError, match=r"what was reused does not fit a resnet8 .*'channels'"):
        build({"arch": "reused", "num_classes": 4, "body": body})


@pytest.mark.parametrize("history", [[["layer9.0", True, [0]]], [["conv1", True, [99]]], [["conv1", True, 3]]])
def test_a_history_that_does_not_fit_its_network_is_refused(history: list[object]) -> None:
    spec = student_of(tiny.network("resnet8")).spec | {"history": history}
    with pytest.raises(CheckpointError, match="what was pruned does not fit a resnet8"):
        build(spec)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"arch": "pruned"}, "belong together"),
        ({"arch": "resnet8", "pruned": {"share_of_macs": 0.3}}, "belong together"),
        ({"arch": "pruned", "pruned": {}}, "give one of share_of_macs"),
        ({"arch": "pruned", "pruned": {"share_of_macs": 0.3, "speedup": 2}}, "not both"),
        ({"arch": "pruned", "pruned": {"share_of_macs": 1.0}}, "less than 1"),
        ({"arch": "pruned", "pretrained": True, "pruned": {"speedup": 2}}, "no pretrained weights"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        parse(Student, given, "student", "params.yaml")
