"""Where the networks compute, in what layout, and in what precision."""

import torch
from torch import nn

from pipeline.system.errors import ParamsError


def best_device() -> torch.device:
    """The accelerator, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def channels_last(model: nn.Module, device: torch.device) -> None:
    """Move a model to a device with its convolutions in NHWC layout, which they compute faster in."""
    # torch's stubs know `memory_format` only beside a dtype.
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def computes_in_bf16(device: torch.device, precision: str) -> bool:
    """Whether `train.precision` means bf16 on this device. Raises ParamsError for bf16 where the processor has none."""
    on_cuda = device.type == "cuda"
    has_bf16 = torch.cuda.is_bf16_supported() if on_cuda else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if precision == "bf16" and not has_bf16:
        raise ParamsError("train.precision is bf16, which this processor cannot compute in. Set it to auto or fp32.")
    return bool(has_bf16) and precision != "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The precision as a context. Raises ParamsError as above."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=computes_in_bf16(device, precision))
