"""When a teacher cache pays: training steps with it and without, in turns, and what it costs to make, in one run.

    python -m benchmarks.teacher_cache --pairs wrn_40_2:wrn_16_2,resnet56:resnet20 --methods kd,afd,sakd --out FILE

Times are of the processor (process time), so that other work on the machine weighs less; waiting for a disk is not in
them. The rows of the cache are read at random from a file that was just written, so from memory.
"""

import argparse
import tempfile
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import provenance
from benchmarks.pair import AUGMENT, CPU, IMAGE_PX, NORMALIZATION, SETTINGS, make_card, make_method, noise_split
from pipeline.data.feed import Feed
from pipeline.devices.memory import keep_freed_memory
from pipeline.devices.precision import computes_in
from pipeline.distillation.base import Method, Teacher
from pipeline.distillation.batch import Batch
from pipeline.system.files import write_json
from pipeline.teaching.build import build
from pipeline.teaching.card import Facts, load
from pipeline.teaching.recall import Recall
from pipeline.training import engine
from serve import machine
from serve.timing import latency

TRAIN_IMAGES = 45_000
"""Of CIFAR-100 without its validation split: what a view is counted for."""
VIEWS, STUDENTS = (8, 16, 32), (1, 10)


def main() -> None:
    """Measure every method of every pair and write the JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.teacher_cache", description="When a teacher cache pays."
    )
    parser.add_argument("--pairs", default="wrn_40_2:wrn_16_2,resnet56:resnet20", help="teacher:student, ...")
    parser.add_argument("--methods", default="kd,afd,sakd")
    parser.add_argument("--rounds", type=int, default=5, help="of one step each, in each of --blocks")
    parser.add_argument("--blocks", type=int, default=4, help="each begins with one view of --images that is made")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    load_before = machine.load_average()
    pairs = [pair.split(":") for pair in arguments.pairs.split(",")]
    results = [_compare(t, s, method, arguments) for t, s in pairs for method in arguments.methods.split(",")]
    write_json(
        arguments.out,
        {
            **provenance.head("teacher_cache", load_before, "torch", "numpy", after=True),
            "seed": 0,
            "threads": arguments.threads,
            "precision": computes_in(CPU, SETTINGS.precision),
            "batch_size": SETTINGS.batch_size,
            "image_px": IMAGE_PX,
            "train_images": TRAIN_IMAGES,
            "epochs": SETTINGS.epochs,
            "results": results,
        },
    )


def _compare(teacher: str, student: str, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    feed = Feed(noise_split(arguments.images), NORMALIZATION, CPU, 1)
    methods = {kind: make_method(teacher, student, name, arguments.images) for kind in ("running", "cached")}
    facts = Facts(
        teacher_sha256="",
        data_sha256="",
        num_images=arguments.images,
        image_px=IMAGE_PX,
        num_views=1,
        augment=AUGMENT,
        normalization=NORMALIZATION,
        precision=computes_in(CPU, SETTINGS.precision),
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "teaching"

        def make() -> float:
            """Seconds to make the cache of one view of --images."""
            network = methods["cached"]
            assert network.reads is not None, f"{name} reads whole maps"
            started = time.process_time()
            asked = Teacher(network.teacher, NORMALIZATION)
            build(asked, make_card(arguments.images), feed, facts, network.reads, Path(scratch) / "partial", folder)
            return time.process_time() - started

        views = [make()]
        recalled = methods["cached"]
        recalled.recall = Recall(folder, load(folder, facts), recalled.reads or ())
        steps = {kind: _step(method, feed) for kind, method in methods.items()}
        samples = [latency.measure(steps, arguments.rounds, 2, 0, time.process_time_ns)]
        for block in range(1, arguments.blocks):
            views.append(make())
            recalled.recall = Recall(folder, load(folder, facts), recalled.reads or ())
            samples.append(latency.measure(steps, arguments.rounds, 1, block, time.process_time_ns))
        row_bytes = {what: layout.row_bytes for what, layout in load(folder, facts).layouts.items()}
    joined = {kind: np.concatenate([sample[kind] for sample in samples]) for kind in steps}
    return _judged(teacher, student, name, joined, float(np.median(views)) / arguments.images, row_bytes)


def _step(method: Method, feed: Feed) -> Any:
    """A call that trains on the next batch of an epoch that repeats; the batches lie ready."""
    batches = list(feed.train_batches(AUGMENT, 0, 0, SETTINGS.batch_size, True))
    method.begin(feed.labels)
    method.place_on(CPU)
    optimizer = engine.make_optimizer(method.train(), SETTINGS)
    ready = cycle([Batch(images, labels, positions, 0.0, 0) for images, labels, positions in batches])
    return lambda: engine.train_step(method, optimizer, next(ready), SETTINGS)


def _judged(
    teacher: str,
    student: str,
    name: str,
    samples: dict[str, latency.Samples],
    view_seconds: float,
    row_bytes: dict[str, int],
) -> dict[str, Any]:
    """What the times mean; `view_seconds` for one image of one view."""
    running, cached = (float(np.median(samples[kind])) / 1e9 / SETTINGS.batch_size for kind in ("running", "cached"))
    saved = running - cached
    result: dict[str, Any] = {
        "teacher": teacher,
        "student": student,
        "method": name,
        "step_ms": {"running": 1e3 * SETTINGS.batch_size * running, "cached": 1e3 * SETTINGS.batch_size * cached},
        "step_ratio": latency.paired_ratio(samples["running"], samples["cached"]).to_dict(),
        "rounds": len(samples["running"]),
        "bytes_of_an_image_and_view": row_bytes,
        "view_seconds": TRAIN_IMAGES * view_seconds,
        "view_gigabytes": TRAIN_IMAGES * sum(row_bytes.values()) / 1e9,
        # So many epochs, of all students together, for each view that is kept.
        "pays_after_epochs_per_view": view_seconds / saved if saved > 0 else None,
        "times_as_fast": {
            f"{views} views, {students} students": students
            * SETTINGS.epochs
            * running
            / (students * SETTINGS.epochs * cached + views * view_seconds)
            for views in VIEWS
            for students in STUDENTS
        },
    }
    print(
        f"{teacher} to {student}, {name}: step {result['step_ratio']['median']:.2f} times as fast, a view takes "
        f"{result['view_seconds']:.0f} s and {result['view_gigabytes']:.2f} GB, pays after "
        f"{result['pays_after_epochs_per_view']} epochs for each view",
        flush=True,
    )
    return result


if __name__ == "__main__":
    main()
