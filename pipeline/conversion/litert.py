"""LiteRT's flatbuffer (.tflite) in float32, from the trained weights. One image at a time.

Its outputs have names of their own; they stand in the order of the network's, probabilities first.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.conversion.base import Call, Source
from pipeline.deployment.export import Outputs

NEEDS = {"litert_torch": "litert-torch", "ai_edge_litert": "ai-edge-litert"}
FROM_ONNX = False
BATCH: int | None = 1


def convert(source: Source, folder: Path) -> Path:
    """Export it with torch, and lower that to a flatbuffer."""
    import litert_torch

    example = torch.zeros(1, source.image_px, source.image_px, 3, dtype=torch.uint8)
    path = folder / f"{source.onnx.stem}.tflite"
    litert_torch.convert(source.servable(), (example,)).export(str(path))
    return path


def load(path: Path) -> Call:
    """The file in LiteRT's interpreter, on one thread."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=path.read_bytes(), num_threads=1)
    run = interpreter.get_signature_runner()
    (pixels_name,) = run.get_input_details()
    probabilities_name, logits_name = sorted(run.get_output_details())

    def call(pixels: NDArray[np.uint8]) -> Outputs:
        results = run(**{pixels_name: pixels})
        return results[probabilities_name], results[logits_name]

    return call
