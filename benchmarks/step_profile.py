"""Where the time of a training step goes: shares of the processor's time by kind of operation.

    python -m benchmarks.step_profile --out results/step_profile_cpu.json

What torch's profiler counts as an operation's own time, over some steps on one batch that lies ready. "python" is what
is left of the wall time: Python itself, and dispatch. The profiler costs time too, more where operations are many.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import provenance
from benchmarks.pair import SETTINGS, flops_per_image, make_step
from pipeline.system.files import write_json
from serve import machine

# The first kind whose part is found in an operation's name takes it.
KINDS = {
    "convolution": ("conv",),
    "batch norm": ("batch_norm",),
    "matrix product": ("mm", "matmul", "linear", "dot"),
    "optimizer": ("sgd",),
    "copies and casts": ("copy", "cat", "contiguous", "clone"),
    "filling with zeros": ("zero", "fill"),
    "reductions": ("mean", "sum", "norm", "softmax", "loss", "nll"),
    "activations and arithmetic": (
        "relu", "threshold", "add", "mul", "div", "sub", "pow", "sqrt", "square", "neg", "exp", "clamp", "where",
    ),
}  # fmt: skip
OTHER = "other operations"


def main() -> None:
    """Profile every method of every pair and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_profile", description="Profile training steps.")
    parser.add_argument("--pairs", default="wrn_40_2:wrn_16_2,resnet56:resnet20", help="teacher:student, ...")
    parser.add_argument("--methods", default="vanilla,kd,afd,sakd")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=machine.num_cores())
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    load = machine.load_average()
    torch.set_num_threads(arguments.threads)
    pairs = [pair.split(":") for pair in arguments.pairs.split(",")]
    results = [_profile(t, s, name, arguments.steps) for t, s in pairs for name in arguments.methods.split(",")]
    write_json(
        arguments.out,
        {
            **provenance.head("step_profile", load, "torch"),
            "seed": 0,
            "threads": arguments.threads,
            "results": results,
        },
    )


def _profile(teacher: str, student: str, name: str, steps: int) -> dict[str, Any]:
    step = make_step(teacher, student, name)
    for _ in range(3):
        step()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    bare_ms = (time.perf_counter() - started) / steps * 1e3
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        started = time.perf_counter()
        for _ in range(steps):
            step()
        profiled_ms = (time.perf_counter() - started) / steps * 1e3
    events = profiler.key_averages()
    own_ms: dict[str, float] = dict.fromkeys([*KINDS, OTHER], 0.0)
    for event in events:
        own_ms[kind_of(event.key)] += event.self_cpu_time_total / 1e3 / steps
    gflops = SETTINGS.batch_size * flops_per_image(teacher, student, name) / own_ms["convolution"] / 1e6
    own_ms["python"] = max(0.0, profiled_ms - sum(own_ms.values()))
    shares = {kind: ms / profiled_ms for kind, ms in sorted(own_ms.items(), key=lambda item: -item[1])}
    largest = ", ".join(f"{kind} {share:.0%}" for kind, share in list(shares.items())[:5])
    print(f"{teacher} to {student}, {name}: {bare_ms:.1f} ms ({profiled_ms:.1f} profiled): {largest}", flush=True)
    return {
        "teacher": teacher,
        "student": student,
        "method": name,
        "steps": steps,
        "step_ms": bare_ms,
        "profiled_step_ms": profiled_ms,
        "operations_per_step": sum(event.count for event in events) / steps,
        "convolutions_gflops": gflops,
        "shares": shares,
        "largest": {
            event.key: event.self_cpu_time_total / 1e3 / steps / profiled_ms
            for event in sorted(events, key=lambda event: -event.self_cpu_time_total)[:10]
        },
    }


def kind_of(operation: str) -> str:
    """The kind in KINDS that an operation's name, as the profiler writes it, belongs to."""
    name = operation.lower()
    # The last part alone: "autograd::engine::evaluate_function: AddBackward0" is not arithmetic, but the engine.
    if name.startswith(("autograd::", "enumerate")):
        return OTHER
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), OTHER)


if __name__ == "__main__":
    main()
