"""Images per second and peak memory of training: this project's loop beside a plain one, in turns, in one run.

    python -m benchmarks.train_step --pairs wrn_40_2:wrn_16_2,resnet56:resnet20 --methods kd,afd,sakd --out FILE

Each of the two lives in a process of its own, with its own allocator and threads, and waits while the other computes. A
"step" is one step of optimisation on a batch that lies ready; a turn makes some of them in one go, as a training does.
An "epoch" goes through the data too. With --compile, ours under `train.compile` takes its turn as a third. The
processor's peak is that of a large matrix product in bf16 (float32 where it has none), measured in the same run.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import provenance
from benchmarks.pair import (
    AUGMENT,
    CPU,
    IMAGE_PX,
    NORMALIZATION,
    SETTINGS,
    epoch_of,
    flops_per_image,
    make_method,
    noise_split,
)
from benchmarks.plain import Images, PlainLoop
from pipeline.data.feed import Feed
from pipeline.devices.memory import keep_freed_memory
from pipeline.devices.precision import computes_in
from pipeline.distillation.batch import Batch
from pipeline.system.files import write_json
from pipeline.training import engine
from serve import machine
from serve.timing import latency


def main() -> None:
    """Measure every method of every pair and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description="Time training steps.")
    parser.add_argument("--pairs", default="wrn_40_2:wrn_16_2,resnet56:resnet20", help="teacher:student, ...")
    parser.add_argument("--methods", default="vanilla,kd,afd,sakd")
    parser.add_argument("--rounds", type=int, default=10, help="turns that each loop has to make steps")
    parser.add_argument("--steps", type=int, default=5, help="of a turn, in one go as in a training")
    parser.add_argument("--epochs", type=int, default=3, help="rounds of one small epoch of each loop")
    parser.add_argument("--images", type=int, default=1280, help="of that epoch")
    parser.add_argument("--threads", type=int, default=machine.num_cores())
    parser.add_argument("--workers", type=int, default=0, help="DataLoader workers of the plain loop")
    parser.add_argument("--compile", action="store_true", help="time ours compiled, too")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    load, peaks = machine.load_average(), [matrix_peak(arguments.threads)]
    pairs = [pair.split(":") for pair in arguments.pairs.split(",")]
    methods = arguments.methods.split(",")
    results = [_compare(t, s, method, arguments) for t, s in pairs for method in methods]
    peaks.append(matrix_peak(arguments.threads))
    for result in results:
        achieved = result["step_images_per_s"]["ours"] * result["gflop_per_image"]
        result["share_of_matrix_peak"] = achieved / max(peaks)
    write_json(
        arguments.out,
        {
            **provenance.head("train_step", load, "torch", "torchvision"),
            "seed": 0,
            "threads": arguments.threads,
            "batch_size": SETTINGS.batch_size,
            "image_px": IMAGE_PX,
            "matrix_peak_gflops": {"before": peaks[0], "after": peaks[1]},
            "results": results,
        },
    )


def matrix_peak(threads: int, size: int = 4096, times: int = 10) -> float:
    """GFLOP/s of a square matrix product in the precision that training computes in, the median of `times`."""
    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if computes_in(CPU, "auto") == "bf16" else torch.float32
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(times + 2):
        started = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / sorted(seconds[2:])[times // 2] / 1e9


def _compare(teacher: str, student: str, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    pipes, workers = {}, []
    for kind in ("ours", "plain", "compiled")[: 3 if arguments.compile else 2]:
        pipes[kind], theirs = context.Pipe()
        job = (kind, theirs, teacher, student, name, arguments.images, arguments.threads, arguments.workers)
        workers.append(context.Process(target=_work, args=job, daemon=True))
        workers[-1].start()

    def ask(kind: str, what: str, times: int = 1) -> Any:
        for _ in range(times):
            pipes[kind].send(what)
            answer = pipes[kind].recv()
        return answer

    steps_of_epoch = arguments.images // SETTINGS.batch_size
    turns = {kind: partial(ask, kind, "step", arguments.steps) for kind in pipes}
    steps = latency.measure(turns, arguments.rounds, warmup=1)
    # As many bare steps as an epoch has take their turn among the epochs, so that both wake up from the same pause.
    calls = {kind: partial(ask, kind, "epoch") for kind in pipes}
    calls["bare"] = partial(ask, "ours", "step", steps_of_epoch)
    epochs = latency.measure(calls, arguments.epochs, warmup=1)
    bare = epochs.pop("bare")
    memory = {kind: ask(kind, "memory") for kind in pipes}
    for kind, worker in zip(pipes, workers, strict=True):
        pipes[kind].send("stop")
        worker.join()
    speed = {k: arguments.steps * SETTINGS.batch_size / float(np.median(samples)) * 1e9 for k, samples in steps.items()}
    whole = steps_of_epoch * SETTINGS.batch_size
    result: dict[str, Any] = {
        "teacher": teacher,
        "student": student,
        "method": name,
        "step_images_per_s": speed,
        "step_ratio": latency.paired_ratio(steps["plain"], steps["ours"]).to_dict(),
        "epoch_images_per_s": {k: whole / float(np.median(samples)) * 1e9 for k, samples in epochs.items()},
        "epoch_ratio": latency.paired_ratio(epochs["plain"], epochs["ours"]).to_dict(),
        "epoch_over_bare_steps": latency.paired_ratio(epochs["ours"], bare).median,
        "peak_memory_bytes": memory,
        "gflop_per_image": flops_per_image(teacher, student, name) / 1e9,
    }
    if arguments.compile:
        result["compiled_step_ratio"] = latency.paired_ratio(steps["plain"], steps["compiled"]).to_dict()
        result["compiled_epoch_ratio"] = latency.paired_ratio(epochs["plain"], epochs["compiled"]).to_dict()
    compiled = f" ({result['compiled_step_ratio']['median']:.2f} compiled)" if arguments.compile else ""
    print(
        f"{teacher} to {student}, {name}: {speed['ours']:.0f} images/s, plain {speed['plain']:.0f}, "
        f"ratio {result['step_ratio']['median']:.2f}{compiled}; epoch ratio {result['epoch_ratio']['median']:.2f}, "
        f"{result['epoch_over_bare_steps']:.3f} of its bare steps",
        flush=True,
    )
    return result


def _work(
    kind: str, pipe: Connection, teacher: str, student: str, name: str, images: int, threads: int, workers: int
) -> None:
    """In a process of its own: do what the pipe asks for, answer when it is done."""
    torch.set_num_threads(threads)
    method = make_method(teacher, student, name, images)
    split = noise_split(images)
    feed = Feed(split, NORMALIZATION, CPU)
    ready, labels, positions = next(feed.train_batches(AUGMENT, 0, 0, SETTINGS.batch_size, True))
    method.begin(feed.labels)
    calls: dict[str, Callable[[], object]]
    if kind != "plain":
        keep_freed_memory()
        method.place_on(CPU)
        if kind == "compiled":
            engine.compile_for(method, CPU)
        optimizer = engine.make_optimizer(method.train(), SETTINGS)
        batch = Batch(ready, labels, positions, 0.0, 0)
        calls = {
            "step": lambda: engine.train_step(method, optimizer, batch, SETTINGS).terms,
            "epoch": epoch_of(method, optimizer, feed, AUGMENT),
        }
    else:
        loop = PlainLoop(method, IMAGE_PX, SETTINGS.lr, SETTINGS.momentum, SETTINGS.weight_decay)
        batch, data = Batch(ready.contiguous(), labels, positions, 0.0, 0), Images(split, NORMALIZATION)
        calls = {"step": lambda: loop.step(batch), "epoch": lambda: loop.epoch(data, SETTINGS.batch_size, workers)}
    calls["memory"] = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    while (what := pipe.recv()) != "stop":
        answer = calls[what]()
        pipe.send(answer if what == "memory" else None)


if __name__ == "__main__":
    main()
