"""What the precisions of params.yaml mean on processors and GPUs that are not here."""

import copy
import platform
from collections.abc import Iterator

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


@pytest.mark.parametrize(("machine", "expected"), [("x86_64", "bf16"), ("AMD64", "bf16"), ("aarch64", "fp32")])
def test_auto_is_bf16_on_a_processor_that_has_kernels_for_its_gradients(
    machine: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True, raising=False)
    assert precision.computes_in(CPU, "auto") == expected


CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90a", "sm_120", "compute_120"]


@pytest.fixture
def asked_anew() -> Iterator[None]:
    """No answer about kernels is remembered, before or after."""
    precision._has_kernels.cache_clear()
    yield
    precision._has_kernels.cache_clear()


@pytest.mark.parametrize(
    ("kinds", "own", "expected"),
    [
        (CUDA_13, (7, 0), CPU),
        (CUDA_13, (8, 9), GPU),
        (CUDA_13, (9, 0), GPU),
        (CUDA_13, (13, 0), GPU),  # from PTX
        (["sm_86"], (8, 0), CPU),
        (["sm_80"], (9, 0), CPU),
        (["gfx90a", "gfx942"], (9, 4), GPU),
        ([], (9, 0), GPU),
    ],
)
@pytest.mark.usefixtures("asked_anew")
def test_a_gpu_is_taken_if_torch_is_built_for_it(
    kinds: list[str],
    own: tuple[int, int],
    expected: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: kinds)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: own)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Old GPU")
    assert precision.best_device() == precision.best_device() == expected
    said = capsys.readouterr().err
    assert said.count("\n") == (expected == CPU)
    assert said == "" or said.startswith(f"There is a GPU (Old GPU, sm_{own[0]}{own[1]}), but the CPU is used: this ")


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
