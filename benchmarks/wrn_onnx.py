"""A WRN-16-2 with random weights as an exported file: as fast as a trained one, and made in seconds."""

from pathlib import Path

import torch

from benchmarks.pair import CLASSES, IMAGE_PX, NORMALIZATION
from pipeline.deployment.export import Servable, write_onnx
from pipeline.models.base import build

OPSET = 20


def write(path: Path, name: str = "wrn_16_2") -> Path:
    """Export it under this name; the path back."""
    torch.manual_seed(0)
    network = build({"arch": "wrn_16_2", "num_classes": CLASSES}).eval()
    card = {
        "format": 1,
        "name": name,
        "precision": "float32",
        "labels": [f"class {index}" for index in range(CLASSES)],
        "image_px": IMAGE_PX,
        "mean": list(NORMALIZATION.mean),
        "std": list(NORMALIZATION.std),
        "arch": "wrn_16_2",
        "method": None,
        "seed": 0,
        "metrics": {},
        "params_sha256": "0" * 64,
        "data_sha256": "0" * 64,
        "data_licence": None,
    }
    write_onnx(Servable(network, NORMALIZATION), card, path, OPSET)
    return path
