"""Where ONNX Runtime computes, on machines whose GPU, driver or libraries are not here."""

import ctypes
import logging
from collections.abc import Iterator
from typing import Any

import onnxruntime
import pytest

from serve.errors import ServeError
from serve.model import devices


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    known = (devices._missing, devices._num_gpus, devices._tell)
    for each in known:
        each.cache_clear()
    yield
    for each in known:
        each.cache_clear()


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver shows a GPU, and ONNX Runtime was built for it."""

    class Driver:
        def cuInit(self, flags: int) -> int:
            return 0

        def cuDeviceGetCount(self, count: Any) -> int:
            count._obj.value = 1
            return 0

    def load(name: str, *mode: int) -> Driver:
        if "libcuda" in name or "shared" in name:
            return Driver()
        raise OSError("libcudnn.so.9: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [devices.CUDA, devices.CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)


def test_a_library_that_is_missing_is_named(one_gpu: None, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ServeError, match=r"CUDA cannot be used here: a library is missing \(libcudnn\.so\.9: cannot"):
        devices.providers("cuda")
    with caplog.at_level(logging.WARNING):
        assert devices.providers("auto") == devices.providers("auto") == [devices.CPU]
    assert len(caplog.records) == 1
    assert "There is a GPU, but the CPU is used: a library is missing (libcudnn.so.9" in caplog.text


def test_a_gpu_that_can_be_used_is_taken(one_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = ctypes.CDLL("libcuda.so.1")
    monkeypatch.setattr(ctypes, "CDLL", lambda name, *mode: driver)
    (first, options), second = devices.providers("auto")
    assert (first, second) == (devices.CUDA, devices.CPU)
    assert options == {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
    assert devices.providers("cuda") == devices.providers("auto")
    assert devices.providers("cpu") == [devices.CPU]


def test_an_onnx_runtime_without_cuda_says_what_to_install(one_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [devices.CPU])
    with pytest.raises(ServeError, match=r"is built without it\. Install requirements-serve-gpu\.lock in its place"):
        devices.providers("cuda")


def test_a_machine_without_a_driver_computes_on_the_cpu_without_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def load(name: str, *mode: int) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [devices.CUDA, devices.CPU])
    assert devices.providers("auto") == [devices.CPU]
    assert caplog.text == ""
    with pytest.raises(ServeError, match="the driver shows no GPU, or there is no driver of NVIDIA"):
        devices.providers("cuda")


def test_a_driver_that_is_too_old_is_no_silent_cpu() -> None:
    devices.check("auto", devices.CPU)
    devices.check("cuda", devices.CUDA)
    with pytest.raises(ServeError, match=r"could not begin with it and took CPUExecutionProvider\. It says why above"):
        devices.check("cuda", devices.CPU)
