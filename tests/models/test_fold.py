"""BN folded into convolutions: the same network with fewer layers."""

import pytest
import torch
from torch import nn

from pipeline.models import base
from pipeline.models.base import Classifier
from pipeline.models.fold import folded
from tests import tiny

LEFT = {
    # BNs before and after; those of a pre-activation net that read a residual sum have to stay
    "resnet14": (15, 0),
    "resnet50_cifar": (53, 0),
    "wrn_16_1": (13, 7),
    "mobilenet_v2_half": (53, 0),
    "vgg13": (10, 0),
    "shufflenet_v1": (49, 0),
    "shufflenet_v2": (56, 0),
    "timm/test_resnet": (15, 10),
    # parallel branches, each with its BN
    "timm/mobileone_s0": (226, 0),
    "timm/repghostnet_050": (112, 6),
}


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def trained(arch: str) -> Classifier:
    """With statistics of its own in every BN."""
    model = tiny.network(arch)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    model.train()(torch.randn(16, 3, 32, 32))
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("arch", LEFT)
def test_a_folded_network_has_the_same_taps(arch: str) -> None:
    model = trained(arch)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lean, images = folded(model), torch.randn(4, 3, 32, 32)
    assert (norms(model), norms(lean)) == LEFT[arch]
    expected, came = model.features(images), lean.features(images)
    for tap, reference in zip((came.stem, *came.blocks), (expected.stem, *expected.blocks), strict=True):
        for form, of_reference in zip(tap, reference, strict=True):
            assert (form - of_reference).abs().max() < 1e-5 * of_reference.abs().max()
    torch.testing.assert_close(came.logits, expected.logits, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_branches_are_merged_inside_of_another_network_too() -> None:
    spec = {"arch": "reused", "num_classes": 4, "body": {"arch": "timm/mobileone_s0", "num_classes": 4}}
    model = base.build({**spec, "channels": 32, "factor": 2}).eval()
    lean = folded(model)
    assert norms(lean) == 0
    assert base.count_macs(lean, 32) < 0.3 * base.count_macs(model, 32)


@pytest.mark.parametrize("arch", ["resnet14", "timm/mobileone_s0"])
def test_norms_that_read_the_batch_stay(arch: str) -> None:
    method = tiny.method("kd", teacher=arch, teacher_bn="batch")
    given, expected = norms(method.teacher), method(tiny.batch()).terms
    method.place_on(tiny.CPU)
    assert norms(method.teacher) == given
    torch.testing.assert_close(method(tiny.batch()).terms, expected, rtol=5e-3, atol=1e-5)


def test_a_method_learns_from_the_folded_teacher_what_it_would_from_the_other() -> None:
    method = tiny.method("afd").train()
    expected = method(tiny.batch()).terms
    teacher = method.teacher
    method.place_on(tiny.CPU)
    assert method.teacher is not teacher
    for name, term in method(tiny.batch()).terms.items():
        torch.testing.assert_close(term, expected[name], rtol=1e-4, atol=1e-5)
