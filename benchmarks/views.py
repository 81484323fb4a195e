"""What strong views cost a training: epochs with weak views, strong ones, and both of each image, in turns, in one run.

    python -m benchmarks.views --pairs resnet56:resnet20,wrn_40_2:wrn_16_2 --methods kd,mlkd,crld --out FILE

Each method trains with weak views (crop and flip) and with `augment.strong`. A method that asks for two views of an
image gets a weak and a strong one in any case, and has one row. Fresh networks, noise for images, everything in one
process: the data feed draws and changes the images, as in a training. "beside" is how many times as long an epoch takes
as one of the first method with weak views.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import provenance
from benchmarks.pair import AUGMENT, CPU, IMAGE_PX, NORMALIZATION, SETTINGS, epoch_of, make_method, noise_split
from pipeline.data.feed import Feed
from pipeline.devices.memory import keep_freed_memory
from pipeline.distillation.base import find
from pipeline.settings.data import Augment
from pipeline.system.files import write_json
from pipeline.training import engine
from serve import machine
from serve.timing import latency

STRONG = AUGMENT.model_copy(update={"strong": True})


def main() -> None:
    """Measure every method of every pair and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.views", description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", default="resnet56:resnet20,wrn_40_2:wrn_16_2", help="teacher:student, ...")
    parser.add_argument("--methods", default="kd,mlkd,crld")
    parser.add_argument("--rounds", type=int, default=9, help="epochs of each")
    parser.add_argument("--images", type=int, default=1280, help="of an epoch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    load, methods = machine.load_average(), arguments.methods.split(",")
    pairs = [pair.split(":") for pair in arguments.pairs.split(",")]
    results = [row for t, s in pairs for row in _pair(t, s, methods, arguments.images, arguments.rounds)]
    write_json(
        arguments.out,
        {
            **provenance.head("views", load, "torch", "numpy", after=True),
            "seed": 0,
            "threads": arguments.threads,
            "batch_size": SETTINGS.batch_size,
            "image_px": IMAGE_PX,
            "images": arguments.images,
            "rounds": arguments.rounds,
            "results": results,
        },
    )


def _pair(teacher: str, student: str, methods: list[str], images: int, rounds: int) -> list[dict[str, Any]]:
    calls: dict[str, Callable[[], object]] = {}
    named: dict[str, tuple[str, str]] = {}
    for name in methods:
        two = find(name).Method.views == 2
        for kind, augment in ({"weak and strong": AUGMENT} if two else {"weak": AUGMENT, "strong": STRONG}).items():
            label = f"{name}, {kind}"
            calls[label], named[label] = _epoch(teacher, student, name, images, augment), (name, kind)
    samples = latency.measure(calls, rounds, warmup=1)
    rows = []
    for label, (name, kind) in named.items():
        ratio = latency.paired_ratio(samples[label], next(iter(samples.values())))
        speed = images / float(np.median(samples[label])) * 1e9
        print(f"{teacher} to {student}, {label}: {speed:.0f} images/s, {ratio.median:.2f} times as long", flush=True)
        rows.append(
            {
                "teacher": teacher,
                "student": student,
                "method": name,
                "views": kind,
                "images_per_s": speed,
                "beside": ratio.to_dict(),
            }
        )
    return rows


def _epoch(teacher: str, student: str, name: str, images: int, augment: Augment) -> Callable[[], object]:
    """One epoch of our training loop."""
    method = make_method(teacher, student, name, images)
    feed = Feed(noise_split(images), NORMALIZATION, CPU)
    method.begin(feed.labels)
    method.place_on(CPU)
    return epoch_of(method, engine.make_optimizer(method.train(), SETTINGS), feed, augment)


if __name__ == "__main__":
    main()
