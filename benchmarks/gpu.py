"""What a GPU computes and how fast: values, steps, epochs, memory, the default run's trainings and ONNX Runtime.

One command that needs neither DVC nor data:

    python -m benchmarks.gpu --out FILE           at most nine minutes on one GPU
    python -m benchmarks.gpu --tiny --device cpu --out FILE

The JSON is written anew after every figure, so that a stop loses none. A part that fails is kept as its error, and the
next one begins. Values are those of the same float32 networks on this machine's processor: the largest difference of
any parameter after some steps, over the largest change of that parameter. "busy" is the share of a step in which the
GPU computes, by torch's profiler; the rest is the host's. The plain loop is that of benchmarks/plain.py, its images
moved to the GPU one batch at a time by pageable memory, as published codes do. It alone computes convolutions in TF32.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_whole, provenance
from benchmarks.pair import AUGMENT, CLASSES, CPU, IMAGE_PX, NORMALIZATION, SETTINGS, make_method, noise_split
from benchmarks.plain import PlainLoop
from pipeline.data.feed import Feed, num_batches
from pipeline.devices.precision import best_device, forbid_tf32
from pipeline.distillation.batch import Batch
from pipeline.settings.training import Train
from pipeline.system import interruption, registry
from pipeline.system.files import write_json
from pipeline.training import engine
from pipeline.training.schedule import Schedule
from pipeline.training.state import Tally
from serve import machine

PAIRS = {"a": ("resnet56", "resnet20"), "f": ("wrn_40_2", "wrn_16_2")}
Record = dict[str, Any]


def main() -> None:
    """Measure until all is done or the time is over, and write as it goes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Values and speed on a GPU.")
    parser.add_argument("--device", default=str(best_device()), help="cuda or cpu (default: what is there)")
    parser.add_argument("--minutes", type=float, default=8.5, help="after which no further part begins")
    parser.add_argument("--tiny", action="store_true", help="small networks and few steps, to try the program itself")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    device, load, started = torch.device(arguments.device), machine.load_average(), time.monotonic()
    report: Record = {
        **provenance.head("gpu", load, "torch"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "seed": 0,
        "parts": {},
    }
    for name, part in _parts(device, arguments.tiny):
        begun = time.monotonic()
        if begun - started > 60 * arguments.minutes:
            record: Record = {"left_out": "the time was over"}
        else:
            try:
                record = part()
            except Exception as error:  # whatever it is, it must not cost the other figures
                record = {"error": f"{type(error).__name__}: {error}"}
            record |= {"seconds": time.monotonic() - begun}
        report["parts"][name] = record
        write_json(arguments.out, report)
        print(f"{name}: {report['parts'][name]}", flush=True)


def _parts(device: torch.device, tiny: bool) -> Iterator[tuple[str, Callable[[], Record]]]:
    """Every part by its name, the most telling ones first."""
    pairs = {"tiny": ("resnet14", "resnet8")} if tiny else PAIRS
    steps, images = (2, 64) if tiny else (100, 50_000)
    small, large = (16, 32) if tiny else (64, 256)
    for pair, networks in reversed(pairs.items()):
        for compiled in (False, True):
            part = partial(epoch, device, *networks, "afd", small, images, compiled)
            yield f"epoch {pair}, afd, batch {small}{', compiled' * compiled}", part
    for name in registry.names("pipeline.distillation"):
        yield f"values of {name}", partial(values, device, name, 2 if tiny else 20)
    yield "trainings of the default run", partial(gpu_whole.trainings, tiny)
    yield "ONNX Runtime and the server", partial(gpu_whole.onnx_runtime, 20 if tiny else 1000)
    for batch_size in (small, large):
        for pair, networks in pairs.items():
            for method in ("vanilla", "kd", "afd", "sakd"):
                # Compiling takes half a minute, and gains most where the launches of kernels decide.
                compiled = batch_size == small and method in ("vanilla", "afd")
                part = partial(speed, device, *networks, method, batch_size, steps, compiled)
                yield f"steps {pair}, {method}, batch {batch_size}", part
    for pair, networks in pairs.items():
        yield f"epoch {pair}, afd, batch {large}", partial(epoch, device, *networks, "afd", large, images, False)


def values(device: torch.device, name: str, steps: int) -> Record:
    """The same steps on the device and on the processor, in float32: how far the students are apart."""
    settings = recipe(precision="fp32")
    ends, terms = [], []
    for where in (CPU, device):
        method = make_method("resnet14", "resnet8", name, 64)
        method.begin((torch.arange(64) % CLASSES).to(where))
        method.place_on(where)
        before = {key: value.cpu().clone() for key, value in method.student.state_dict().items()}
        optimizer = engine.make_optimizer(method.train(), settings)
        for step in range(steps):
            batch, strong = (noise(settings.batch_size, seed, where) for seed in (step, steps + step))
            out = engine.train_step(method, optimizer, replace(batch, strong=strong.images), settings)
        ends.append({key: value.cpu() for key, value in method.student.state_dict().items()})
        terms.append({key: value.item() for key, value in out.terms.items()})
    apart = max(
        ((ends[1][key] - ends[0][key]).abs().max() / (ends[0][key] - start).abs().max().clamp(min=1e-12)).item()
        for key, start in before.items()
        if start.is_floating_point()
    )
    return {"steps": steps, "largest_relative_difference": apart, "terms": {"cpu": terms[0], "device": terms[1]}}


def speed(
    device: torch.device, teacher: str, student: str, name: str, batch_size: int, steps: int, compiled: bool
) -> Record:
    """Images per second of steps on a batch that lies ready: ours, the plain loop, and ours compiled if asked for."""
    settings = recipe(batch_size=batch_size)
    record: Record = {}
    for kind in ("ours", "plain", "compiled")[: 3 if compiled else 2]:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        method = make_method(teacher, student, name, batch_size)
        batch = noise(batch_size, 0, device)
        method.begin(batch.labels)
        call: Callable[[], object]
        if kind == "plain":
            for network in (method, *method._borrowed):
                network.to(device)
            loop = PlainLoop(method, IMAGE_PX, SETTINGS.lr, SETTINGS.momentum, SETTINGS.weight_decay)
            method.to(device)  # what the loop puts in the place of AFD's attention
            call = partial(_with_tf32, loop, batch)
        else:
            method.place_on(device)
            if kind == "compiled":
                engine.compile_for(method, device)
            optimizer = engine.make_optimizer(method.train(), settings)
            call = partial(engine.train_step, method, optimizer, batch, settings)
        seconds = timed(call, steps, device)
        record[kind] = {"images_per_s": batch_size * steps / seconds, "ms_a_step": 1000 * seconds / steps}
        if device.type == "cuda":
            record[kind] |= {"busy": busy(call), "peak_bytes": torch.cuda.max_memory_allocated(device)}
    return record


def _with_tf32(loop: PlainLoop, batch: Batch) -> float:
    """A step with TF32 where torch has it by default, in cuDNN's convolutions: published codes leave it so."""
    torch.backends.cudnn.allow_tf32 = True
    try:
        return loop.step(batch)
    finally:
        forbid_tf32()


def epoch(
    device: torch.device, teacher: str, student: str, name: str, batch_size: int, images: int, compiled: bool
) -> Record:
    """Seconds of one epoch of the training loop, all of it: order, crops, mirrors, steps, sums. The second one."""
    settings = recipe(batch_size=batch_size)
    feed = Feed(noise_split(images), NORMALIZATION, device)
    method = make_method(teacher, student, name, images)
    method.begin(feed.labels)
    method.place_on(device)
    if compiled:
        engine.compile_for(method, device)
    optimizer = engine.make_optimizer(method.train(), settings)
    schedule, stop = Schedule(settings, num_batches(images, batch_size, True)), interruption.StopRequest()
    tallies = [Tally(), Tally()]
    for number, tally in enumerate(tallies):
        engine.train_epoch(method, optimizer, schedule, feed, settings, AUGMENT, 0, number, tally, stop)
    return {"images": images, "first_s": tallies[0].seconds, "second_s": tallies[1].seconds}


def recipe(**changes: Any) -> Train:
    """The recipe of the benchmarks with some changes."""
    return SETTINGS.model_copy(update=changes)


def noise(images: int, seed: int, device: torch.device) -> Batch:
    """The same batch on every device."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(images, 3, IMAGE_PX, IMAGE_PX, generator=generator)
    pixels = pixels.to(device, memory_format=torch.channels_last)
    positions = torch.arange(images, device=device)
    return Batch(pixels, positions % CLASSES, positions, 0.0, 0)


def timed(call: Callable[[], object], times: int, device: torch.device) -> float:
    """Seconds of so many calls in one go, after some that are not counted."""
    for _ in range(max(3, times // 10)):
        call()
    _finish(device)
    started = time.perf_counter()
    for _ in range(times):
        call()
    _finish(device)
    return time.perf_counter() - started


def busy(call: Callable[[], object], times: int = 10) -> float:
    """Share of the time in which the GPU runs kernels, one after the other."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(times):
            call()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    kernels_us = sum(event.self_device_time_total for event in profile.key_averages())
    return float(kernels_us / 1e6 / seconds)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
