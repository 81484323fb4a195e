"""serve.timing.candidates, serve.timing.apart and serve.timing.cold_start: what is measured, and in which process."""

import http.cookiejar
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from serve.errors import ServeError
from serve.model import overflow
from serve.model.classifier import OnnxClassifier
from serve.timing import apart
from serve.timing.candidates import Bound, Candidate, best_device, open_onnx, usable
from serve.timing.cold_start import cold_start, peak_bytes
from tests import tiny_onnx
from tests.processes import has_ended
from tests.waiting import until

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return tiny_onnx.write(tmp_path / "student.onnx")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    np.save(tmp_path / "images.npy", IMAGES)
    return tmp_path / "images.npy"


def test_a_candidate_answers_and_draws_its_own_pixels(student: Path) -> None:
    candidate = Candidate("student", student, IMAGES, open_onnx)
    pixels = candidate.pixels(9, seed=1)
    assert pixels.shape == (9, 8, 8, 3)
    assert all(any((row == image).all() for image in IMAGES) for row in pixels)
    np.testing.assert_array_equal(pixels, candidate.pixels(9, seed=1))
    assert (pixels != candidate.pixels(9, seed=2)).any()
    np.testing.assert_array_equal(candidate.on(2).open()(pixels), OnnxClassifier(student)(pixels))


def test_bound_buffers_give_the_same_answers_in_every_shape(student: Path) -> None:
    # The device is the CPU here; the binding is the same code as on a GPU.
    plain = OnnxClassifier(student)
    bound = Bound(plain, "cpu")
    for size in (1, 3, 1, 5, 3):
        pixels = np.random.default_rng(size).integers(0, 256, (size, 8, 8, 3), dtype=np.uint8)
        np.testing.assert_array_equal(bound(pixels), plain(pixels))
    first, second = bound(IMAGES[:1]).copy(), bound(IMAGES[1:2])
    np.testing.assert_array_equal(np.concatenate([first, second]), plain(IMAGES[:2]))
    strided = IMAGES[::2]
    np.testing.assert_array_equal(bound(strided), plain(strided))


@pytest.mark.skipif(bool(os.environ.get("CUDA_VISIBLE_DEVICES")), reason="there may be a GPU")
def test_without_a_gpu_the_cpu_is_the_best_device_and_the_gpu_is_refused(student: Path) -> None:
    if best_device(student) == "cuda":
        pytest.skip("there is a GPU")
    with pytest.raises(ServeError, match="CUDA cannot be used here: "):
        open_onnx(student, 1, "cuda")


def test_what_does_not_fit_the_device_is_left_out_with_the_reason(tmp_path: Path) -> None:
    names = [f"student.{kind}.onnx" for kind in ("int8", "fp16", "int8_signed", "fp16.refused")]
    for name in (*names, "teacher.int8.onnx", "student.onnx", "notes.txt"):
        (tmp_path / name).touch()
    int8, fp16, signed, refused = names
    tiny_onnx.write(tmp_path / int8)
    files, left_out = usable(tmp_path, "cpu")
    assert files == {"int8": tmp_path / int8}
    assert left_out == {
        fp16: "student.fp16.onnx is not for this device, which runs int8 (cpu)",
        signed: "student.int8_signed.onnx is not for this device, which runs int8 (cpu)",
        refused: "student.fp16.refused.onnx was refused by stage quantize",
    }
    assert usable(tmp_path, "cuda")[0] == {"fp16": tmp_path / fp16}
    assert usable(None, "cpu") == ({}, {})


@pytest.mark.parametrize(("bits", "overflows", "is_usable"), [(8, True, False), (7, True, True), (8, False, True)])
def test_eight_bits_that_overflow_here_are_left_out(
    bits: int, overflows: bool, is_usable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overflow, "overflows", lambda: overflows)
    path = tiny_onnx.write(tmp_path / "student.int8.onnx", precision="int8", weight_bits=bits)
    files, left_out = usable(tmp_path, "cpu")
    assert list(files.values()) == [path] * is_usable
    assert is_usable or left_out[path.name].startswith("student.int8.onnx has weights of 8 bits, whose sums overflow")


def test_a_call_apart_answers_from_another_process() -> None:
    assert apart.call(os.getpid) != os.getpid()
    assert apart.call(os.path.join, a="x") == "x"
    assert apart.resolve(apart.reference(tiny_onnx.write)) is tiny_onnx.write
    # serve/http must not take the place of Python's own.
    assert apart.call(http.cookiejar.http2time, text="Thu, 01 Jan 1970 00:01:00 GMT") == 60


def test_a_failure_apart_is_told_by_its_last_line() -> None:
    with pytest.raises(ServeError, match=r"failed in its own process: .*No such file or directory: '/no/such'"):
        apart.call(os.listdir, path="/no/such")
    with pytest.raises(ServeError, match="failed in its own process: status 3, no message"):
        apart.call(os._exit, status=3)


def test_a_process_apart_ends_with_the_one_that_waits_for_it() -> None:
    script = (
        "import subprocess, sys, os; from serve.timing import apart; real = subprocess.Popen\n"
        "def spy(*a, **k):\n    child = real(*a, **k); print(child.pid, flush=True); return child\n"
        "subprocess.Popen = spy; import time; apart.call(time.monotonic and __import__('tests.asleep').asleep.nap)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not has_ended(child)
        parent.send_signal(signal.SIGKILL)
    until(lambda: has_ended(child))


def test_a_cold_start_is_of_a_fresh_process(student: Path, images: Path) -> None:
    what = {"path": str(student), "threads": 1, "device": "cpu", "images": str(images), "batch_sizes": [64, 1]}
    start = apart.call(cold_start, make=apart.reference(open_onnx), **what)
    assert min(start["import_ms"], start["open_ms"], start["first_call_ms"]) > 0
    assert [entry["batch_size"] for entry in start["memory"]] == [1, 64]
    if sys.platform.startswith("linux"):
        # The import alone takes more; this process, with numpy and pytest, has taken far more than the child reports.
        first, last = (entry["peak_bytes"] for entry in start["memory"])
        assert 20e6 < first <= last
        ballast = bytearray(os.urandom(1) * 300_000_000)
        assert apart.call(cold_start, make=apart.reference(open_onnx), **what)["memory"][0]["peak_bytes"] < len(ballast)


@pytest.mark.parametrize(("system", "unit"), [("darwin", 1), ("linux", 1024)])
def test_peak_memory_is_in_bytes(tmp_path: Path, system: str, unit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=1000))
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t  900 kB\nVmHWM:\t  123 kB\nVmRSS:\t  100 kB\n")
    assert peak_bytes(status) == 123 * 1024
    status.write_text("Name:\tpython\n")
    assert peak_bytes(status) == peak_bytes(tmp_path / "none") == 1000 * unit
