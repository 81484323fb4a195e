"""Where ONNX Runtime computes: on an NVIDIA GPU if there is one that it can use, else on the CPU."""

import ctypes
import logging
from functools import cache
from pathlib import Path
from typing import Any, Literal

import onnxruntime  # type: ignore[import-untyped]

from serve.errors import ServeError
from serve.machine import cuda_driver

Device = Literal["auto", "cpu", "cuda"]
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_LOG = logging.getLogger("serve.model.devices")


def providers(device: Device) -> list[Any]:
    """ONNX Runtime's execution providers, best first: "auto" takes the GPU if it can be used.

    Raises ServeError for "cuda" where it cannot, with what is missing.
    """
    if device == "cpu" or (device == "auto" and _num_gpus() == 0):
        return [CPU]
    missing = _missing()
    if missing is None:
        # Trying all algorithms of every convolution, ONNX Runtime's default, would be done anew for each batch size.
        # By default, too, it rounds factors to 10 bits (TF32); the accuracy on the card was measured in float32.
        return [(CUDA, {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}), CPU]
    if device == "cuda":
        raise ServeError(f"CUDA cannot be used here: {missing}.")
    _tell(f"There is a GPU, but the CPU is used: {missing}.")
    return [CPU]


def check(device: Device, provider: str) -> None:
    """Raises ServeError where "cuda" was asked for, and ONNX Runtime took `provider` after all."""
    if device == "cuda" and provider != CUDA:
        raise ServeError(
            f"CUDA was asked for, but ONNX Runtime could not begin with it and took {provider}. It says why above; "
            "most often the driver is too old for its CUDA libraries."
        )


@cache
def _missing() -> str | None:
    """What CUDA lacks, and what to do; None if it lacks nothing.

    ONNX Runtime itself names CUDA wherever it was built with it, prints an error, and computes on the CPU.
    """
    if CUDA not in onnxruntime.get_available_providers():
        return "this ONNX Runtime is built without it. Install requirements-serve-gpu.lock in its place"
    if _num_gpus() == 0:
        return "the driver shows no GPU, or there is no driver of NVIDIA"
    onnxruntime.preload_dlls()  # finds the CUDA libraries that came as Python packages
    folder = Path(onnxruntime.__file__).parent / "capi"
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        return f"a library is missing ({error}). requirements-serve-gpu.lock has those of CUDA"
    return None


@cache
def _num_gpus() -> int:
    """As the driver counts them, also inside containers and under CUDA_VISIBLE_DEVICES."""
    driver, count = cuda_driver(), ctypes.c_int(0)
    if not driver or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


@cache
def _tell(message: str) -> None:
    _LOG.warning("%s", message)  # once
