"""OpenVINO's own form of an exported file, in float32 or with the int8 of its QDQ nodes. Any batch size.

A .xml names the layers, and a .bin beside it has the weights.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.conversion.base import Call, Source
from pipeline.deployment.export import Outputs

NEEDS = {"openvino": "openvino"}
FROM_ONNX = True
BATCH: int | None = None


def convert(source: Source, folder: Path) -> Path:
    """Read the ONNX file and save it, with weights in the precision that they have there."""
    import openvino

    path = folder / f"{source.onnx.stem}.xml"
    openvino.save_model(openvino.Core().read_model(source.onnx), path, compress_to_fp16=False)
    return path


def load(path: Path) -> Call:
    """Compiled for one thread of the CPU, in float32 where it has no integers: the default may be bf16."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", settings)

    def call(pixels: NDArray[np.uint8]) -> Outputs:
        results = compiled({"pixels": pixels})
        return results["probabilities"], results["logits"]

    return call
