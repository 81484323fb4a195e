"""An exported model as a function: uint8 pixels in, class probabilities out."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime  # type: ignore[import-untyped]

from serve.errors import InputError, ModelError
from serve.model import devices
from serve.model.card import Card
from serve.model.devices import Device

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class OnnxClassifier:
    """An image classifier exported by Pupil. Calls may come from several threads at once.

    path       the .onnx file
    threads    threads that compute one call on the CPU, at least 1
    device     "cpu", "cuda", or "auto", which takes a GPU if there is one that can be used

    path, threads, device  as they were given
    card       what the file says about itself
    provider   the execution provider of ONNX Runtime that runs it
    file_bytes the size of the file

    Raises ModelError if the file is no usable Pupil model, ServeError for "cuda" where it cannot be used.
    """

    card: Card
    provider: str
    file_bytes: int

    def __init__(self, path: Path, threads: int = 1, device: Device = "auto") -> None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        self.path, self.threads, self.device = path, threads, device
        try:
            content = _content(path)
            # Before anything else reads the bytes, and the session is opened from these very ones.
            self.card = Card.of_file(content)
            self._session = _open(content, threads, devices.providers(device))
            _check_signature(self._session, self.card)
        except ModelError as error:
            raise ModelError(
                f"{path} is not a usable Pupil model: {error}. Export it again, or name another."
            ) from error
        self.file_bytes = len(content)
        self.provider = self._session.get_providers()[0]
        devices.check(device, self.provider)

    def __call__(self, pixels: Pixels) -> Floats:
        """(N, H, W, 3) uint8 pixels -> (N, K) probabilities, each row summing to 1. Raises InputError."""
        return self._run(["probabilities"], pixels)[0]

    def outputs(self, pixels: Pixels) -> tuple[Floats, Floats]:
        """(N, H, W, 3) uint8 pixels -> (N, K) probabilities and (N, K) logits. Raises InputError."""
        probabilities, logits = self._run(["probabilities", "logits"], pixels)
        return probabilities, logits

    def _run(self, names: list[str], pixels: Pixels) -> list[Floats]:
        pixels = np.asarray(pixels)
        size = self.card.image_px
        if pixels.dtype != np.uint8:
            raise InputError(f"pixels must be uint8 in 0..255, but these are {pixels.dtype}.")
        if pixels.ndim != 4 or pixels.shape[1:] != (size, size, 3):
            raise InputError(f"pixels must have shape (N, {size}, {size}, 3), but these have {pixels.shape}.")
        if len(pixels) == 0:
            raise InputError("pixels must hold at least one image, but these hold none.")
        results: list[Floats] = self._session.run(names, {"pixels": pixels})
        return results


def _content(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise ModelError("there is no such file")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"it cannot be read ({error.strerror})") from error


def _open(content: bytes, threads: int, providers: list[Any]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads make one call faster and every neighbour slower, a second session in this process included.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # ONNX Runtime's errors share no base class below Exception
        raise ModelError(f"ONNX Runtime cannot load it ({' '.join(str(error).split())})") from error


def _check_signature(session: onnxruntime.InferenceSession, card: Card) -> None:
    """Raise ModelError unless inputs and outputs are those that the card promises."""
    inputs = {tensor.name: tensor for tensor in session.get_inputs()}
    outputs = {tensor.name: tensor for tensor in session.get_outputs()}
    if list(inputs) != ["pixels"]:
        raise ModelError(f"its inputs are {list(inputs)}, expected ['pixels']")
    pixels = ("tensor(uint8)", [card.image_px, card.image_px, 3])
    scores = ("tensor(float)", [len(card.labels)])
    for name, (kind, dimensions) in {"pixels": pixels, "probabilities": scores, "logits": scores}.items():
        tensor = inputs.get(name) or outputs.get(name)
        if tensor is None:
            raise ModelError(f"it has no output {name!r}, only {list(outputs)}")
        # A free dimension is a name or None, a frozen one a number.
        is_free = len(tensor.shape) > 0 and not isinstance(tensor.shape[0], int)
        if tensor.type != kind or not is_free or tensor.shape[1:] != dimensions:
            raise ModelError(
                f"{name!r} is {tensor.type} {tensor.shape}, but its card promises {kind} {['batch', *dimensions]}"
            )
