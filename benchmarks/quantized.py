"""Latency of exported networks in float32 and in int8, interleaved in one run, and where the time goes.

    python -m benchmarks.quantized --archs wrn_16_2,wrn_40_2,resnet20 --batch-sizes 1,32 --out FILE

Weights are random and BN statistics those of random images: neither changes what is computed. "int8" is what stage
quantize makes; "int8_plain" is quantised without rewriting the graph first (pipeline/deployment/integer_graph.py).
Shares of operators come from ONNX Runtime's profiler, in a run of its own, since it slows every call.
"""

import argparse
import logging
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import torch

from benchmarks import provenance
from benchmarks.pair import CLASSES, IMAGE_PX, NORMALIZATION
from pipeline.deployment import export, onnx_file, quantize
from pipeline.deployment.gate import sqnr_db
from pipeline.models.base import build
from pipeline.system.files import write_json
from serve import machine
from serve.timing import latency
from serve.timing.profiled import shares

CALIBRATION_IMAGES = 64
CONTRASTS = (("float32", "int8"), ("float32", "int8_plain"), ("int8_plain", "int8"))


def main() -> None:
    """Time every network at every batch size and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantized", description="Time int8 against float32.")
    parser.add_argument("--archs", default="wrn_16_2,wrn_40_2,resnet20")
    parser.add_argument("--batch-sizes", default="1,32")
    parser.add_argument("--samples", type=int, default=1000, help="rounds at batch 1; fewer beyond, never below 70")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load = machine.load_average()
    sizes = [int(size) for size in arguments.batch_sizes.split(",")]
    results = []
    for arch in arguments.archs.split(","):
        results.append(_network(arch, sizes, arguments.samples, arguments.threads))
        for batch in results[-1]["batches"]:
            ratio = batch["ratios"]["float32 / int8"]
            times = ", ".join(f"{name} {timing['p50_ms']:.3f} ms" for name, timing in batch["candidates"].items())
            print(f"{arch}, batch {batch['batch_size']}: {times}; int8 {ratio['median']:.2f} times as fast", flush=True)
    write_json(
        arguments.out,
        {
            **provenance.head("quantized", load, "torch", "onnx", "onnxruntime"),
            "seed": 0,
            "threads": arguments.threads,
            "image_px": IMAGE_PX,
            "results": results,
        },
    )


def _network(arch: str, sizes: list[int], samples: int, threads: int) -> dict[str, Any]:
    models = _models(arch)
    pixels = np.random.default_rng(1).integers(0, 256, (max(sizes), IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8)
    sessions = {name: _session(model, threads) for name, model in models.items()}
    logits = {
        name: torch.from_numpy(session.run(["logits"], {"pixels": pixels})[0]) for name, session in sessions.items()
    }
    batches = []
    for size in sizes:
        calls: dict[str, Callable[[], object]] = {
            name: partial(session.run, ["probabilities"], {"pixels": pixels[:size]})
            for name, session in sessions.items()
        }
        timed = latency.measure(calls, max(70, samples // size))
        batches.append(
            {
                "batch_size": size,
                "candidates": {name: latency.summary(values).to_dict() for name, values in timed.items()},
                "ratios": {f"{a} / {b}": latency.paired_ratio(timed[a], timed[b]).to_dict() for a, b in CONTRASTS},
                "shares": {
                    name: shares(model.SerializeToString(), pixels[:size], threads) for name, model in models.items()
                },
            }
        )
    return {
        "arch": arch,
        "size_bytes": {name: model.ByteSize() for name, model in models.items()},
        "sqnr_db": {name: sqnr_db(logits["float32"], z) for name, z in logits.items()},
        "batches": batches,
    }


def _models(arch: str) -> dict[str, onnx.ModelProto]:
    torch.manual_seed(0)
    network = build({"arch": arch, "num_classes": CLASSES})
    for _ in range(10):
        network.train()(torch.randn(32, 3, IMAGE_PX, IMAGE_PX))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float32.onnx"
        export.write_onnx(export.Servable(network, NORMALIZATION), {"image_px": IMAGE_PX}, path, opset=20)
        float32 = onnx_file.read(path)[0]
    drawn = np.random.default_rng(0).integers(0, 256, (CALIBRATION_IMAGES, IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8)
    int8 = quantize.Quantizer(float32, [drawn]).model()
    return {"float32": float32, "int8_plain": _plain(float32, drawn), "int8": int8}


def _plain(float32: onnx.ModelProto, drawn: np.ndarray[Any, Any]) -> onnx.ModelProto:
    """As a person would do it who knows of nothing but quantize_static."""
    quantization = onnxruntime.quantization
    # It asks to fold BN first, which the exporter has done, and warns of every BN that it could not fold.
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, made = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
            onnx.save(float32, source)
            quantization.quantize_static(
                source,
                made,
                quantize.OneBatch(drawn),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
            return onnx.load(made)
    finally:
        logging.disable(logging.NOTSET)


def _session(model: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
