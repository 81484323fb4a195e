"""serve.machine: the same answer twice, and the right one for a machine laid out in a folder."""

import ctypes
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serve import machine


def test_describe_is_stable_plain_and_without_the_load() -> None:
    first = machine.describe()
    sum(range(1_000_000))
    assert machine.describe() == first
    assert json.loads(json.dumps(first)) == first
    assert list(first) == ["cpu", "cpu_flags", "cores", "memory_bytes", "os", "python", "governor", "gpus"]
    assert first["cpu"]


def test_another_process_sees_the_same_machine() -> None:
    script = "import json; from serve import machine; print(json.dumps(machine.describe()))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == machine.describe()


def test_reads_cpu_governor_and_gpus(tmp_path: Path) -> None:
    files = {
        "proc/cpuinfo": (
            "processor\t: 0\nmodel name\t: Abacus 9000 @ 3.00GHz\nflags\t\t: fpu amx_int8 avx2 avx512_vnni sse\n\n"
            "processor\t: 1\nmodel name\t: Another\nflags\t\t: avx512f\n"
        ),
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
        "proc/driver/nvidia/gpus/0000:02:00.0/information": "Model: \t\t NVIDIA Two\nIRQ:   \t\t 17\n",
        "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA One\nIRQ:   \t\t 16\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    described = machine.describe(tmp_path)
    assert described["cpu"] == "Abacus 9000 @ 3.00GHz"
    assert described["cpu_flags"] == ["avx2", "avx512_vnni", "amx_int8"]
    assert described["governor"] == "powersave"
    assert described["gpus"] == ["NVIDIA One", "NVIDIA Two"]


def test_the_gpu_that_computes_stands_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        def cuInit(self, flags: int) -> int:
            return 0

        def cuDeviceGet(self, device: Any, number: int) -> int:
            device._obj.value = 7 + number
            return 0

        def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
            name.value = {7: b"NVIDIA Two"}[device.value]
            return 0

    for number, model in enumerate(("One", "Two", "Three")):
        path = tmp_path / f"proc/driver/nvidia/gpus/0000:0{number}:00.0/information"
        path.parent.mkdir(parents=True)
        path.write_text(f"Model: \t\t NVIDIA {model}\n")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert machine.describe(tmp_path)["gpus"] == ["NVIDIA Two", "NVIDIA One", "NVIDIA Three"]
    monkeypatch.setattr(Driver, "cuInit", lambda self, flags: 100)
    assert machine.describe(tmp_path)["gpus"] == ["NVIDIA One", "NVIDIA Two", "NVIDIA Three"]


def test_an_arm_processor_is_told_from_others(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd asimddp bf16\nCPU implementer\t: 0x41\n"
        "CPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\nCPU revision\t: 1\n"
    )
    told = machine.describe(tmp_path)
    assert told["cpu"] == f"{platform.machine()} (implementer 0x41, part 0xd0c, variant 0x3)"
    assert told["cpu_flags"] == ["asimd", "asimddp", "bf16"]


@pytest.mark.parametrize(("answer", "expected"), [("echo 'Apple M1'", "Apple M1"), ("exit 1", None)])
def test_a_mac_is_told_from_others(
    answer: str, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sysctl = tmp_path / "sysctl"
    sysctl.write_text(f'#!/bin/sh\n[ "$*" = "-n machdep.cpu.brand_string" ] && {answer}\n')
    sysctl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert machine.describe(tmp_path)["cpu"] == (expected or platform.processor() or platform.machine())


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    described = machine.describe(tmp_path)
    assert described["cpu"]
    assert (described["cpu_flags"], described["governor"], described["gpus"]) == ([], None, [])


def test_cores_are_those_of_the_process() -> None:
    if not hasattr(os, "sched_setaffinity"):
        return
    one = min(os.sched_getaffinity(0))
    script = f"import os; os.sched_setaffinity(0, [{one}]); from serve import machine; print(machine.num_cores())"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "1\n"


def test_load_average_is_a_number() -> None:
    assert machine.load_average() >= 0
