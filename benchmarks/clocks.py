"""Do the places that say how long a call takes agree? One file at batch 1 on one thread, read off all of them.

    python -m benchmarks.clocks --pairs wrn_40_2:wrn_16_2,resnet20:resnet8 --out FILE

headline         beside its teacher and both networks in torch, as stage benchmark times it
threads          its row for one thread in the table by numbers of threads
loadgen          p50 of MLPerf's SingleStream, in a process of its own
serve_benchmark  `python -m serve benchmark` of the file alone

and the first call after a pause, in the headline and alone. Weights are random, which changes no time. All places are
read in each of --repeats, one after the other: on a machine that others use, compare the medians, and look at how far
one place is from itself. "apart" is the largest of the four medians over the smallest.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import provenance
from benchmarks.pair import CLASSES, IMAGE_PX
from pipeline.deployment import trial
from pipeline.models import checkpoint
from pipeline.models.base import build
from pipeline.system.files import write_json
from serve import machine
from serve.timing import benchmark as bench
from serve.timing.candidates import Candidate, open_onnx
from stages._torch_candidate import open_torch

PLACES = ("headline", "threads", "loadgen", "serve_benchmark")
OPSET = 20
NO_SERVER_MS = 0.001
"""Below any call, so that LoadGen does not spend minutes on rates that nobody looks at here."""
PLAN = bench.Plan((1,), 700, 20, 0, thread_counts=(1, 2), loadgen=bench.LoadGen(0.5, NO_SERVER_MS))


def main() -> None:
    """Read every place and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clocks", description="One call, four clocks.")
    parser.add_argument("--pairs", default="wrn_40_2:wrn_16_2,resnet20:resnet8", help="teacher:student, ...")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    load = machine.load_average()
    pairs = [pair.split(":") for pair in arguments.pairs.split(",")]
    results = [_pair(teacher, student, arguments.repeats) for teacher, student in pairs]
    write_json(
        arguments.out,
        {
            **provenance.head("clocks", load, "torch", "onnxruntime", "mlcommons-loadgen", after=True),
            "seed": PLAN.seed,
            "samples": PLAN.samples,
            "threads": 1,
            "image_px": IMAGE_PX,
            "results": results,
        },
    )


def _pair(teacher: str, student: str, repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        candidates = _candidates({"student": student, "teacher": teacher}, Path(folder))
        runs = [_read(candidates, Path(folder)) for _ in range(repeats)]
    medians = {key: statistics.median(run[key] for run in runs) for key in runs[0] if key.endswith("_ms")}
    four = [medians[f"{place}_ms"] for place in PLACES]
    apart = max(four) / min(four)
    print(f"{student} beside {teacher}: " + ", ".join(f"{key} {value:.3f}" for key, value in medians.items()))
    print(f"largest of the four / smallest: {apart:.3f}", flush=True)
    return {"teacher": teacher, "student": student, "medians": medians, "apart": apart, "repeats": runs}


def _candidates(archs: dict[str, str], folder: Path) -> list[Candidate]:
    """As stage benchmark has them: both in ONNX Runtime, then both in torch. The student is the first."""
    images = np.random.default_rng(0).integers(0, 256, (256, IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8)
    in_onnx, in_torch = [], []
    for name, arch in archs.items():
        torch.manual_seed(0)
        network = build({"arch": arch, "num_classes": CLASSES})
        checkpoint.save(network, trial.header(network, IMAGE_PX), folder / f"{name}.safetensors")
        exported = trial.write(network, IMAGE_PX, OPSET, folder / f"{name}.onnx")
        in_onnx.append(Candidate(f"{name}_onnx", exported, images, open_onnx))
        in_torch.append(Candidate(f"{name}_torch", folder / f"{name}.safetensors", images, open_torch))
    return [*in_onnx, *in_torch]


def _read(candidates: list[Candidate], folder: Path) -> dict[str, float]:
    """Milliseconds of the first candidate by place, and what stands beside them."""
    student = candidates[0]
    batches, _ = bench.side_by_side(candidates, [("teacher_onnx", "student_onnx")], PLAN)
    alone = bench.one_by_one(student, PLAN)
    out = folder / "latency.json"
    command = [sys.executable, "-m", "serve", "benchmark", str(student.path), "--batch-sizes", "1", "--json", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (served,) = json.loads(out.read_text(encoding="utf-8"))["batches"]
    (name,) = served["candidates"]
    return {
        "load_average": machine.load_average(),
        "headline_ms": batches[0]["candidates"][student.name]["p50_ms"],
        "threads_ms": next(row["p50_ms"] for row in alone["threads"] if row["threads"] == 1),
        "loadgen_ms": next(run["p50_ms"] for run in alone["loadgen"] if run["scenario"] == "SingleStream"),
        "serve_benchmark_ms": served["candidates"][name]["p50_ms"],
        "after_pause_ms": batches[0]["after_pause"]["p50_ms"][student.name],
        "after_pause_alone_ms": served["after_pause"]["p50_ms"][name],
        "teacher_ms": batches[0]["candidates"]["teacher_onnx"]["p50_ms"],
        "times_as_fast": batches[0]["ratios"]["teacher_onnx / student_onnx"]["median"],
    }


if __name__ == "__main__":
    main()
