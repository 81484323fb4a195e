"""What is measured: a file, the function that turns it into a callable, and the images that the callable is asked.

All candidates have one boundary: uint8 pixels in the host's memory go in, probabilities in the host's memory come out.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]

from serve.model import devices, overflow
from serve.model.classifier import Floats, OnnxClassifier, Pixels
from serve.model.devices import Device

Call = Callable[[Pixels], object]
Make = Callable[[Path, int, Device], Call]
"""(file, threads, device "cpu" or "cuda") -> what answers; a function of a module, so that a new process finds it."""

_FORMATS = {"cpu": "int8", "cuda": "fp16"}
"""The smaller number format that ONNX Runtime computes in on a device; others would be cast back and forth."""


@dataclass(frozen=True)
class Candidate:
    """One way to run one network."""

    name: str
    path: Path
    images: Pixels  # (M, H, W, 3) to draw batches from
    make: Make
    threads: int = 1
    device: Device = "cpu"

    def open(self) -> Call:
        """Load it in this process."""
        return self.make(self.path, self.threads, self.device)

    def on(self, threads: int) -> "Candidate":
        """The same with another number of threads."""
        return replace(self, threads=threads)

    def pixels(self, batch_size: int, seed: int) -> Pixels:
        """(B, H, W, 3), drawn with replacement."""
        positions = np.random.default_rng(seed).choice(len(self.images), batch_size)
        return self.images[positions]


class Bound:
    """A classifier whose pixels and probabilities stay in buffers of the device, which is bound to the session.

    Against a plain call, ONNX Runtime allocates nothing and plans no copy; both copies are still part of a call.
    """

    def __init__(self, classifier: OnnxClassifier, device: str) -> None:
        self._session: onnxruntime.InferenceSession = classifier._session
        self._device = device
        self._bindings: dict[tuple[int, ...], tuple[onnxruntime.OrtValue, onnxruntime.IOBinding]] = {}

    def __call__(self, pixels: Pixels) -> Floats:
        """(N, H, W, 3) uint8 pixels -> (N, K) probabilities. A new shape gets its buffers on its first call."""
        if pixels.shape not in self._bindings:
            self._bindings[pixels.shape] = self._bind(pixels)
        value, binding = self._bindings[pixels.shape]
        value.update_inplace(np.ascontiguousarray(pixels))
        # Copying to the host waits for the device.
        self._session.run_with_iobinding(binding)
        probabilities: Floats = binding.copy_outputs_to_cpu()[0]
        return probabilities

    def _bind(self, pixels: Pixels) -> tuple[onnxruntime.OrtValue, onnxruntime.IOBinding]:
        value = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(pixels), self._device, 0)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("pixels", value)
        binding.bind_output("probabilities", self._device)
        return value, binding


def open_onnx(path: Path, threads: int, device: Device) -> Call:
    """An exported file in ONNX Runtime. Raises ServeError for "cuda" where it cannot be used."""
    return as_called(OnnxClassifier(path, threads, device), device)


def as_called(classifier: OnnxClassifier, device: str) -> Call:
    """What is timed of a classifier on a device."""
    return classifier if device == "cpu" else Bound(classifier, device)


def best_device(path: Path) -> Device:
    """The GPU ("cuda") if ONNX Runtime really runs the file there, else "cpu": a session knows, a list does not."""
    return "cuda" if OnnxClassifier(path).provider == devices.CUDA else "cpu"


def usable(folder: Path | None, device: str) -> tuple[dict[str, Path], dict[str, str]]:
    """Files student.KIND.onnx of a folder: by kind those to time on this device; by name why the others are not.

    KIND is int8, fp16 or another number format; student.KIND.refused.onnx was refused by stage quantize.
    """
    files: dict[str, Path] = {}
    left_out: dict[str, str] = {}
    for path in sorted(folder.glob("student.*.onnx")) if folder is not None else ():
        kind, *refused = path.name.removeprefix("student.").removesuffix(".onnx").split(".")
        if refused:
            left_out[path.name] = f"{path.name} was refused by stage quantize"
        elif kind != _FORMATS[device]:
            left_out[path.name] = f"{path.name} is not for this device, which runs {_FORMATS[device]} ({device})"
        elif device == "cpu" and (why := overflow.doubt(OnnxClassifier(path, device="cpu").card)) is not None:
            left_out[path.name] = f"{path.name} {why}"
        else:
            files[kind] = path
    return files, left_out
