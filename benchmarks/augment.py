"""What a batch of training crops costs on the CPU: our batched one beside torchvision's transforms, image by image.

    python -m benchmarks.augment --out FILE

From stored uint8 images to normalised, channels_last batches: a box of random size and shape scaled to image_px, and a
mirror. torchvision gets the same images as tensors, once without and once with the low-pass filter (antialias) that is
its default; both draw by themselves. All take turns in one process. Our crop without scaling stands beside them, and so
does a strong view of the scaled one.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import transforms

from benchmarks import provenance
from pipeline.data.arrays import Split
from pipeline.data.feed import Feed
from pipeline.devices.memory import keep_freed_memory
from pipeline.settings.data import Augment, Normalization
from pipeline.system.files import write_json
from serve import machine
from serve.timing import latency

IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SEED = 0


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.augment", description="Time batches of training crops.")
    parser.add_argument("--storage-px", type=int, default=256)
    parser.add_argument("--image-px", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", default="1,4", help="of torch, one after the other")
    parser.add_argument("--rounds", type=int, default=70)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    load = machine.load_average()
    keep_freed_memory()
    calls = ways(arguments.storage_px, arguments.image_px, arguments.batch_size)
    results = [measure(calls, int(threads), arguments.rounds) for threads in arguments.threads.split(",")]
    write_json(
        arguments.out,
        {
            **provenance.head("augment", load, "torch", "torchvision", "numpy", after=True),
            "seed": SEED,
            "storage_px": arguments.storage_px,
            "image_px": arguments.image_px,
            "batch_size": arguments.batch_size,
            "rounds": arguments.rounds,
            "results": results,
        },
    )


def ways(storage_px: int, image_px: int, batch_size: int) -> dict[str, Callable[[], Tensor]]:
    """Each makes one batch (B, 3, image_px, image_px) of the same stored images."""
    generator = np.random.default_rng(SEED)
    stored = generator.integers(0, 256, (batch_size, storage_px, storage_px, 3), dtype=np.uint8)
    feed = Feed(Split(stored, np.zeros(batch_size, np.int64), image_px), IMAGENET, torch.device("cpu"))
    positions, pixels = torch.arange(batch_size), torch.from_numpy(stored)

    def ours(settings: Augment) -> Tensor:
        return feed.seen(settings, positions, feed.views(settings, SEED, 0, positions))

    def theirs(antialias: bool) -> Tensor:
        transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(image_px, antialias=antialias),
                transforms.RandomHorizontalFlip(),
                transforms.ConvertImageDtype(torch.float32),
                transforms.Normalize(IMAGENET.mean, IMAGENET.std),
            ]
        )
        batch = torch.stack([transform(image) for image in pixels.permute(0, 3, 1, 2)])
        return batch.contiguous(memory_format=torch.channels_last)

    return {
        "ours": partial(ours, Augment(crop="resized")),
        "ours_unscaled": partial(ours, Augment(crop_padding_px=0)),
        "ours_strong": partial(ours, Augment(crop="resized", strong=True)),
        "torchvision": partial(theirs, antialias=False),
        "torchvision_antialias": partial(theirs, antialias=True),
    }


def measure(calls: dict[str, Callable[[], Tensor]], threads: int, rounds: int) -> dict[str, Any]:
    """Milliseconds per batch of each, in turns, with so many threads."""
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    samples = latency.measure(calls, rounds, warmup=3)
    medians = {name: float(np.median(taken)) / 1e6 for name, taken in samples.items()}
    print(f"{threads} threads: " + ", ".join(f"{name} {ms:.1f} ms" for name, ms in medians.items()))
    return {
        "threads": threads,
        "median_ms": medians,
        "torchvision_over_ours": latency.paired_ratio(samples["torchvision"], samples["ours"]).to_dict(),
        "torchvision_antialias_over_ours": latency.paired_ratio(
            samples["torchvision_antialias"], samples["ours"]
        ).to_dict(),
        "strong_over_ours": latency.paired_ratio(samples["ours_strong"], samples["ours"]).to_dict(),
    }


if __name__ == "__main__":
    main()
