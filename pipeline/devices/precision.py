"""Where the networks compute, in what layout, and in what precision."""

import platform
import re
import sys
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.system.errors import ParamsError


def best_device() -> torch.device:
    """The accelerator, if there is one that this torch has kernels for. From here on float32 is IEEE's there."""
    forbid_tf32()
    return torch.device("cuda" if torch.cuda.is_available() and _has_kernels() else "cpu")


def forbid_tf32() -> None:
    """From here on float32 is IEEE's on a GPU: torch lets cuDNN round the factors of convolutions to 10 bits (TF32)."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


@cache
def _has_kernels() -> bool:
    """Whether torch was built for this GPU. One that is too old is "available" too, and its first kernel fails.

    Machine code (sm) runs where the major number is the same and the minor one no smaller, PTX (compute) on all newer.
    """
    kinds = [re.match(r"(sm|compute)_(\d+)(\d)", kind) for kind in torch.cuda.get_arch_list()]
    built = [(kind[1], (int(kind[2]), int(kind[3]))) for kind in kinds if kind]
    own = torch.cuda.get_device_capability()
    # ROCm's kinds have other names, of which nothing is known here.
    if not built or any(it <= own and (code == "compute" or it[0] == own[0]) for code, it in built):
        return True
    print(
        f"There is a GPU ({torch.cuda.get_device_name()}, sm_{own[0]}{own[1]}), but the CPU is used: this torch is "
        f"built for {', '.join(torch.cuda.get_arch_list())}. Install a torch that is built for it too.",
        file=sys.stderr,
    )
    return False


class DepthwiseConv2d(nn.Conv2d):
    """Every channel by itself, on a processor in float32.

    In bf16 oneDNN takes two to three times as long for the gradients of such a convolution (benchmarks/depthwise.py).
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H', W'), in float32 on a processor."""
        if x.device.type != "cpu":
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


def place(model: nn.Module, device: torch.device) -> None:
    """Move a model to a device, with its convolutions as they compute fastest: in NHWC layout, depthwise as above."""
    for module in model.modules():
        # Exactly this type: timm has subclasses that do more.
        if type(module) is nn.Conv2d and 1 < module.groups == module.in_channels:
            module.__class__ = DepthwiseConv2d
    # torch's stubs know `memory_format` only beside a dtype.
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def computes_in(device: torch.device, precision: str) -> Literal["bf16", "fp32"]:
    """What `train.precision` means on this device. Raises ParamsError for bf16 where there is none."""
    has_bf16 = _has_bf16(device)
    if precision == "bf16" and not has_bf16:
        where = "GPU" if device.type == "cuda" else "processor"
        raise ParamsError(f"train.precision is bf16, which this {where} cannot compute in. Set it to auto or fp32.")
    return "bf16" if has_bf16 and precision != "fp32" else "fp32"


def _has_bf16(device: torch.device) -> bool:
    """Not by emulation, which is slower than float32: what GPUs before Ampere would do."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # On ARM oneDNN has no kernels for the gradients of bf16 convolutions, and takes its reference code.
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    # Where torch is built without oneDNN, as for macOS, the operator does not exist.
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_onednn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The precision as a context. Raises ParamsError as above."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=computes_in(device, precision) == "bf16")
