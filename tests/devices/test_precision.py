"""What the precisions of params.yaml mean on processors and GPUs that are not here."""

import copy

import pytest
import torch
from torch import nn

from pipeline.devices import precision
from pipeline.system.errors import ParamsError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("has_bf16", [False, True])
def test_auto_is_bf16_where_a_gpu_computes_in_it_itself(has_bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(including_emulation: bool = True) -> bool:
        return including_emulation or has_bf16

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", answer)
    assert precision.computes_in(GPU, "auto") == ("bf16" if has_bf16 else "fp32")
    assert precision.computes_in(GPU, "fp32") == "fp32"
    if not has_bf16:
        with pytest.raises(ParamsError, match=r"which this GPU cannot compute in\. Set it to auto"):
            precision.computes_in(GPU, "bf16")


def test_a_torch_without_onednn_computes_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert precision.computes_in(CPU, "auto") == "fp32"
    with pytest.raises(ParamsError, match="which this processor cannot compute in"):
        precision.computes_in(CPU, "bf16")


def test_float32_is_ieee_on_a_gpu() -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    precision.best_device()
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_depthwise_convolutions_are_float32_on_a_processor_and_others_as_autocast_says() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 8, 1, groups=2))
    images = torch.randn(2, 4, 8, 8)
    expected, before = model(images), {name: value.clone() for name, value in model.state_dict().items()}
    precision.place(model, CPU)
    assert [isinstance(layer, precision.DepthwiseConv2d) for layer in model] == [False, True, False]
    # In float32 nothing changes, and what is saved is what was there.
    torch.testing.assert_close(model(images), expected)
    assert model.state_dict().keys() == before.keys()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = model[0](images)
        second = model[1](first)
        third = model[2](second)
    assert [x.dtype for x in (first, second, third)] == [torch.bfloat16, torch.float32, torch.bfloat16]
    torch.testing.assert_close(second, model[1](first.float()))
    assert copy.deepcopy(model)[1](images).shape == (2, 8, 6, 6)
