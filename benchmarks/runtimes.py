"""An exported WRN-16-2 in ONNX Runtime and in OpenVINO, in float32 and int8, in turns in one process, one thread each.

    uv pip install openvino
    python -m benchmarks.runtimes --out FILE

Weights are random and BN statistics those of random images: neither changes what is computed. OpenVINO reads the same
files through pipeline/conversion/openvino.py, in the form that `python -m stages.convert` writes.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import provenance
from benchmarks.pair import CLASSES, IMAGE_PX
from pipeline.conversion import base, openvino
from pipeline.deployment import trial
from pipeline.models.base import build
from pipeline.system.files import write_json
from serve import machine
from serve.model.classifier import OnnxClassifier
from serve.timing import latency

ARCH = "wrn_16_2"
OPSET = 20


def main() -> None:
    """Time both runtimes at every batch size and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtimes", description="Time OpenVINO beside ours.")
    parser.add_argument("--batch-sizes", default="1,32")
    parser.add_argument("--samples", type=int, default=1000, help="rounds at batch 1; fewer beyond, never below 70")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    base.require(openvino, "openvino")
    load = machine.load_average()
    sizes = [int(size) for size in arguments.batch_sizes.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        calls, sizes_bytes = _open(Path(folder))
        batches = [_in_turns(calls, size, max(70, arguments.samples // size)) for size in sizes]
    for batch in batches:
        times = ", ".join(f"{name} {timing['p50_ms']:.3f} ms" for name, timing in batch["candidates"].items())
        print(f"batch {batch['batch_size']}: {times}")
    write_json(
        arguments.out,
        {
            **provenance.head("runtimes", load, "torch", "onnx", "onnxruntime", "openvino", after=True),
            "seed": 0,
            "threads": 1,
            "arch": ARCH,
            "image_px": IMAGE_PX,
            "size_bytes": sizes_bytes,
            "batches": batches,
        },
    )


def _open(folder: Path) -> tuple[dict[str, base.Call], dict[str, int]]:
    """Calls of both runtimes on both files, by name; and the size of each file."""
    torch.manual_seed(0)
    network = build({"arch": ARCH, "num_classes": CLASSES})
    for _ in range(10):
        network.train()(torch.randn(32, 3, IMAGE_PX, IMAGE_PX))
    float32 = trial.write(network, IMAGE_PX, OPSET, folder / "float32.onnx")
    calls: dict[str, base.Call] = {}
    sizes = {}
    for path in (float32, trial.write_int8(float32, folder / "int8.onnx")):
        converted = openvino.convert(base.Source(path, path, IMAGE_PX), folder)
        calls[f"{path.stem} onnxruntime"] = OnnxClassifier(path, device="cpu").outputs
        calls[f"{path.stem} openvino"] = openvino.load(converted)
        sizes[path.stem] = path.stat().st_size
    return calls, sizes


def _in_turns(calls: dict[str, base.Call], batch_size: int, rounds: int) -> dict[str, Any]:
    pixels = np.random.default_rng(1).integers(0, 256, (batch_size, IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8)
    bound: dict[str, Callable[[], object]] = {name: partial(call, pixels) for name, call in calls.items()}
    timed = latency.measure(bound, rounds)
    answers = {name: call(pixels)[0] for name, call in calls.items()}
    pairs = {kind: (f"{kind} openvino", f"{kind} onnxruntime") for kind in ("float32", "int8")}
    return {
        "batch_size": batch_size,
        "candidates": {name: latency.summary(values).to_dict() for name, values in timed.items()},
        "ratios": {f"{a} / {b}": latency.paired_ratio(timed[a], timed[b]).to_dict() for a, b in pairs.values()},
        "max_probability_error": {kind: float(np.abs(answers[a] - answers[b]).max()) for kind, (a, b) in pairs.items()},
    }


if __name__ == "__main__":
    main()
