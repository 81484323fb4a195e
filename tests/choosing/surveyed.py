"""A survey without exports and clocks: files as large as the weights, calls as long as the files are large."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.deployment import trial
from pipeline.models.base import Classifier, num_parameters
from pipeline.models.fold import folded


def replace_exports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files of zeros for networks; gives back the list of what was written, which grows."""
    written: list[str] = []

    def write(network: Classifier, image_px: int, opset: int, path: Path) -> Path:
        written.append(str(network.spec["arch"]))
        path.write_bytes(bytes(4 * num_parameters(folded(network))))
        return path

    def write_int8(float32: Path, path: Path) -> Path:
        path.write_bytes(bytes(float32.stat().st_size // 4))
        return path

    monkeypatch.setattr(trial, "write", write)
    monkeypatch.setattr(trial, "write_int8", write_int8)
    return written


def measure(files: Mapping[str, Path], threads: int = 1) -> dict[str, dict[str, Any]]:
    """1 ms for a MB; of batches of 32 as much for each image."""
    ms = {name: path.stat().st_size / 1e6 for name, path in files.items()}

    def batch(name: str, size: int) -> dict[str, Any]:
        ratio = dict.fromkeys(("median", "low", "high"), ms["teacher"] / ms[name])
        return {"batch_size": size, "n": 60, "p50_ms": size * ms[name], "times_as_fast": ratio}

    return {
        name: {"batches": [batch(name, size) for size in (1, 32)], "peak_bytes": 60_000_000}
        for name in files
        if name != "teacher"
    }
