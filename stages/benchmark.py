"""Time the deployed student beside its teacher: the same pixels in, probabilities out, interleaved in one process.

The teacher is timed in torch and in ONNX Runtime, so that "smaller model" and "other runtime" are told apart.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import checkpoint
from pipeline import params as parameters
from pipeline.data import card as cards
from pipeline.data.arrays import Split
from pipeline.export import Servable
from pipeline.files import write_json
from serve import latency
from serve.errors import ServeError
from serve.machine import load_average
from serve.model import OnnxClassifier
from stages import _run

RATIOS = (
    ("teacher_onnx", "student_onnx"),
    ("teacher_torch", "teacher_onnx"),
    ("student_torch", "student_onnx"),
)
_FEWEST = 70


def benchmark(params: Path, student: Path, teacher: Path, deploy: Path, data: Path, machine: Path, out: Path) -> None:
    """Write latencies of student and teacher, in ONNX Runtime and in torch, to the JSON file `out`."""
    settings = parameters.load(params).benchmark
    images = Split.load(data, "test", cards.load(data)).images
    torch.set_num_threads(settings.threads)
    calls: dict[str, Callable[[Any], object]] = {
        "student_onnx": OnnxClassifier(deploy / "student.onnx", threads=settings.threads),
        "teacher_onnx": OnnxClassifier(deploy / "teacher.onnx", threads=settings.threads),
        "student_torch": _in_torch(student),
        "teacher_torch": _in_torch(teacher),
    }
    load_before = load_average()
    generator = np.random.default_rng(settings.seed)
    batches = []
    for batch_size in settings.batch_sizes:
        pixels = images[np.sort(generator.choice(len(images), batch_size))]
        rounds = max(_FEWEST, settings.samples // batch_size)
        candidates = {name: _bind(call, pixels) for name, call in calls.items()}
        samples = latency.measure(candidates, rounds, settings.warmup, settings.seed)
        ratios = {f"{a} / {b}": latency.paired_ratio(samples[a], samples[b], settings.seed) for a, b in RATIOS}
        batches.append(
            {
                "batch_size": batch_size,
                "rounds": rounds,
                "candidates": {name: latency.summary(values).to_dict() for name, values in samples.items()},
                "ratios": {name: ratio.to_dict() for name, ratio in ratios.items()},
            }
        )
        smaller = ratios["teacher_onnx / student_onnx"]
        print(
            f"batch {batch_size}: the student answers {smaller.median:.2f} times as fast as its teacher "
            f"[{smaller.low:.2f}, {smaller.high:.2f}], both in ONNX Runtime, {rounds} rounds"
        )
    write_json(
        out,
        {
            "machine": json.loads(machine.read_text(encoding="utf-8")),
            "load_average": load_before,
            "threads": settings.threads,
            "batches": batches,
            "size_bytes": {name: (deploy / f"{name}.onnx").stat().st_size for name in ("student", "teacher")},
        },
    )


def _bind(call: Callable[[Any], object], pixels: Any) -> Callable[[], object]:
    return lambda: call(pixels)


def _in_torch(weights: Path) -> Callable[[Any], object]:
    """The network as torch runs it by default, behind the same boundary as the exported file."""
    model, header = checkpoint.load(weights)
    servable = Servable(model, header.normalization).eval()

    def call(pixels: Any) -> object:
        with torch.inference_mode():
            return servable(torch.from_numpy(pixels))[0].numpy()

    return call


if __name__ == "__main__":
    _run.main(benchmark, ServeError)
