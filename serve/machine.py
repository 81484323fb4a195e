"""What machine this is, as far as it decides how fast a model runs.

Two calls on one machine give the same answer, so it can be hashed to tell one machine from another. The load, which
changes, is apart. Nothing here imports more than the standard library: it runs at every start of the pipeline.
"""

import ctypes
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# Instructions that inference kernels are chosen by.
_X86 = ("avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni")
_AMX = ("amx_tile", "amx_int8", "amx_bf16")
_ARM = ("asimd", "asimddp", "asimdhp", "bf16", "i8mm", "sve")


def describe(root: Path = Path("/")) -> dict[str, object]:
    """Plain JSON data: cpu, cpu_flags, cores, memory_bytes, os, python, governor (None if unreadable), gpus.

    `cores` counts the logical cores this process may use; of `gpus` the first one computes. `root` is where proc/ and
    sys/ are found.
    """
    cpuinfo = _cpuinfo(root)
    flags = set((cpuinfo.get("flags") or cpuinfo.get("Features") or "").split())
    return {
        "cpu": _cpu(cpuinfo),
        "cpu_flags": [flag for flag in (*_X86, *_AMX, *_ARM) if flag in flags],
        "cores": num_cores(),
        "memory_bytes": memory_bytes(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "governor": _read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "gpus": _gpus(root),
    }


def memory_bytes() -> int:
    """Main memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def num_cores() -> int:
    """Logical cores this process may use, which is fewer than the machine has under taskset or a cpuset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions(*packages: str) -> dict[str, str]:
    """Of installed packages. "onnxruntime" stands for whichever package of it is installed."""
    return {name: _onnxruntime_version() if name == "onnxruntime" else version(name) for name in packages}


def _onnxruntime_version() -> str:
    try:
        return version("onnxruntime-gpu")
    except PackageNotFoundError:
        return version("onnxruntime")


def load_average() -> float:
    """Mean number of running processes over the last minute, of the whole machine."""
    return os.getloadavg()[0]


def _cpu(cpuinfo: dict[str, str]) -> str:
    """A name that tells processors apart: where Linux has none (ARM), the numbers of the maker and the design."""
    if name := cpuinfo.get("model name"):
        return name
    if part := cpuinfo.get("CPU part"):
        numbers = f"implementer {cpuinfo.get('CPU implementer')}, part {part}, variant {cpuinfo.get('CPU variant')}"
        return f"{platform.machine()} ({numbers})"
    return (_mac() if sys.platform == "darwin" else None) or platform.processor() or platform.machine()


def _mac() -> str | None:
    """Such as "Apple M1", of which platform.processor() says "arm" alone."""
    try:
        asked = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return asked.stdout.strip()


def _cpuinfo(root: Path) -> dict[str, str]:
    """Key -> value of the first processor in proc/cpuinfo; empty where there is none."""
    first, _, _ = (_read(root / "proc/cpuinfo") or "").partition("\n\n")
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _gpus(root: Path) -> list[str]:
    """Model names of the NVIDIA GPUs that the driver lists: first CUDA's device 0, then all others in bus order."""
    names = []
    for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        for line in (_read(path) or "").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Model":
                names.append(value.strip())
    if len(set(names)) > 1:  # otherwise there is nothing to ask, and asking starts CUDA
        first = _first_gpu()
        names.sort(key=lambda name: name != first)
    return names


def _first_gpu() -> str | None:
    """Name of CUDA's device 0, which torch and ONNX Runtime take: the fastest one that CUDA_VISIBLE_DEVICES shows."""
    driver, device, name = cuda_driver(), ctypes.c_int(0), ctypes.create_string_buffer(256)
    if not driver or driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceGetName(name, 256, device):
        return None
    return name.value.decode()


def cuda_driver() -> ctypes.CDLL | None:
    """NVIDIA's driver, ready to be asked; None where there is none, or it finds no GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return None if driver.cuInit(0) else driver


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
