"""The contract of every runtime, which is one file of this folder, and the comparison that its result has to pass.

    NEEDS       name to import -> package to install
    FROM_ONNX   whether it starts from the ONNX file, or from the weights
    BATCH       how many images the file takes at once; None: any number
    convert     (Source, folder) -> the file that it wrote there
    load        file -> a function from pixels to (probabilities, logits), as ONNX Runtime has it

The packages are imported inside of functions: nothing else of this project needs them.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.deployment.export import Outputs, Servable
from pipeline.models import checkpoint
from pipeline.system.errors import ParityError, PupilError

Call = Callable[[NDArray[np.uint8]], Outputs]


@dataclass(frozen=True)
class Source:
    """The student in both forms that it ships and is trained in; a runtime starts from one of them."""

    onnx: Path
    weights: Path
    image_px: int

    def servable(self) -> Servable:
        """The trained network, fused, from pixels to probabilities and logits. Raises CheckpointError."""
        model, header = checkpoint.load(self.weights)
        return Servable(model, header.normalization).fused()


def require(runtime: ModuleType, name: str) -> None:
    """Raise PupilError, with the command that installs them, where packages of a runtime are missing."""
    missing = [package for module, package in runtime.NEEDS.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise PupilError(
            f"--to {name} needs {' and '.join(missing)}, which this environment does not have. Install it: "
            f".venv/uv/bin/uv pip install --python .venv/bin/python {' '.join(missing)} (docs/runtimes.md says which "
            "versions were tried)."
        )


def compare(
    came: Call,
    reference: Call,
    pixels: NDArray[np.uint8],
    batch: int,
    max_probability_error: float,
    max_drop: float | None,
) -> dict[str, Any]:
    """Both runtimes on images (N, H, W, 3), `batch` at a time: largest error of a probability, and of how many the
    top-1 is the same, in percent.

    Runtimes round the integers of an int8 file differently. With `max_drop` its top-1 decides: it may be another one
    for at most so many percent of the images. Without, no probability may be off by more than `max_probability_error`.

    Raises ParityError for a larger difference.
    """
    pieces = [pixels[start : start + batch] for start in range(0, len(pixels), batch)]
    ours, theirs = (np.concatenate([call(piece)[0] for piece in pieces]) for call in (reference, came))
    error = float(np.abs(ours - theirs).max())
    agreement = float(100 * (ours.argmax(1) == theirs.argmax(1)).mean())
    if max_drop is None and not error <= max_probability_error:
        raise ParityError(
            f"the converted file's probabilities differ from ONNX Runtime's by up to {error:.2e}, more than "
            f"deploy.max_probability_error {max_probability_error:.2e}. No file was written. Convert the weights that "
            "this ONNX file was exported from; raise the tolerance only if the difference is small enough for your use."
        )
    if max_drop is not None and not 100 - agreement <= max_drop:
        raise ParityError(
            f"the converted file has another top-1 than ONNX Runtime for {100 - agreement:.2f} % of {len(pixels)} "
            f"images, more than deploy.max_drop {max_drop:g}. No file was written. Convert the float32 file instead."
        )
    return {"images": len(pixels), "max_probability_error": error, "top1_agreement": agreement}
