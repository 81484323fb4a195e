"""What a survey measures of exported files: in turns in this process, and the memory of a process of their own."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from serve.model.classifier import OnnxClassifier
from serve.timing import apart, versus
from serve.timing.candidates import open_onnx
from serve.timing.cold_start import cold_start

BATCH_SIZES = (1, 32)


def measure(files: Mapping[str, Path], threads: int) -> dict[str, dict[str, Any]]:
    """Of each file but "teacher": {"batches": records of `versus.beside`, "peak_bytes": of a process for one image}."""
    batches = versus.beside(files, threads, BATCH_SIZES)
    return {
        name: {"batches": batches[name], "peak_bytes": _peak(path, threads)}
        for name, path in files.items()
        if name != "teacher"
    }


def _peak(path: Path, threads: int) -> int:
    image_px = OnnxClassifier(path, device="cpu").card.image_px
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.npy"
        np.save(images, np.zeros((1, image_px, image_px, 3), np.uint8))
        started = apart.call(
            cold_start,
            make=apart.reference(open_onnx),
            path=str(path),
            threads=threads,
            device="cpu",
            images=str(images),
            batch_sizes=[1],
        )
    return int(started["memory"][0]["peak_bytes"])
