"""How long `prepare` takes, audit included, beside a plain loop: on CIFAR and on photographs that it makes itself.

    python -m benchmarks.prepare --cifar FOLDER --out results/prepare_cpu.json

--cifar is a local copy of CIFAR-100 as Parquet files. The photographs, JPEG files of 300x200 in class folders, are
pieces of the two that scikit-learn ships, with noise. For each set the stage `prepare` runs as a user runs it, in a
process of its own, `--rounds` times; its seconds hold Python's start, finding the records, the audit and the checksums.
The rate of reading alone (decode, digest, resize) is taken for one process and more. The plain loop is what one writes
without thinking of speed: one thread, Pillow, no audit; it runs over `--plain` images, and its seconds for all are
computed from these. Files were just written or read, so they come from memory. Peaks of memory are those of
benchmarks.memory.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from ruamel.yaml import YAML

from benchmarks import provenance
from benchmarks.memory import watch
from pipeline.preparation.divide import divide
from pipeline.preparation.reading import WORKERS, Reader
from pipeline.settings import params
from pipeline.settings.data import Data
from pipeline.system import registry
from pipeline.system.files import write_json
from serve import machine

CIFAR_COLUMNS = {"image_column": "img", "label_column": "fine_label"}
CLASSES, SIZE, STORED_PX = 40, (300, 200), 224
GOALS_S = {"cifar": 15, "photographs": 30}


def main() -> None:
    """Measure both sets and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare", description="Time the stage prepare.")
    parser.add_argument("--cifar", type=Path, help="a folder of CIFAR-100's Parquet files; left out: photographs only")
    parser.add_argument("--photographs", type=int, default=9000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plain", type=int, default=2000, help="images of the plain loop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    load_before = machine.load_average()
    results = {}
    with tempfile.TemporaryDirectory(prefix="pupil-prepare-") as scratch:
        photographs = Path(scratch) / "photographs"
        make_photographs(photographs, arguments.photographs, arguments.seed)
        sets: dict[str, tuple[dict[str, Any], Callable[[], Iterator[Image.Image]]]] = {}
        data: dict[str, Any]
        if arguments.cifar:
            data = {"source": "huggingface", "path": str(arguments.cifar), "sources": {"huggingface": CIFAR_COLUMNS}}
            sets["cifar"] = data, lambda: _rows(arguments.cifar)
        data = {"source": "folder", "path": str(photographs), "image_px": STORED_PX}
        sets["photographs"] = data, lambda: map(Image.open, sorted(photographs.rglob("*.jpg")))
        for name, (data, images) in sets.items():
            results[name] = measure(data, images, Path(scratch), arguments) | {"goal_s": GOALS_S[name]}
            print(_line(name, results[name]), flush=True)
    options = [f"--{name} {value}" for name, value in vars(arguments).items() if name not in ("cifar", "out")]
    write_json(
        arguments.out,
        {
            **provenance.head("prepare", load_before, "numpy", "pillow", "datasets", "pyarrow", after=True),
            # In place of the head's, which has the folder's path.
            "command": " ".join(["python -m benchmarks.prepare", *(["--cifar FOLDER"] if arguments.cifar else [])])
            + f" {' '.join(options)} --out {arguments.out.name}",
            "results": results,
        },
    )


def make_photographs(folder: Path, num: int, seed: int) -> None:
    """Write `num` JPEG files into class folders, four fifths of each class below train and one fifth below test."""
    from sklearn.datasets import load_sample_images  # slow to import

    random = np.random.default_rng(seed)
    whole = load_sample_images().images  # type: ignore[no-untyped-call]
    width, height = SIZE
    for number in range(num):
        image = whole[number % len(whole)]
        top, left = (int(random.integers(0, image.shape[axis] - SIZE[1 - axis] + 1)) for axis in (0, 1))
        noisy = image[top : top + height, left : left + width] + random.normal(0, 8, (height, width, 3))
        split = "test" if number // CLASSES % 5 == 4 else "train"
        path = folder / split / f"class {number % CLASSES:02}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def measure(
    data: dict[str, Any], images: Callable[[], Iterator[Image.Image]], scratch: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """What preparing one set takes, by the stage and by the plain loop, as plain data."""
    settings = Data.model_validate(data)
    rounds = [_stage(data, scratch) for _ in range(arguments.rounds)]
    source = registry.find("pipeline.sources", settings.source, "data.source").open_source(
        params.source_config(settings), settings
    )
    parts = divide(source, settings)
    num = sum(len(part.order) for part in parts.values())
    rates = {workers: _rate(Reader(parts, settings.stored_px), num, workers) for workers in _numbers(WORKERS)}
    started = time.perf_counter()
    plain = [_plain(image, settings.stored_px) for image in islice(images(), arguments.plain)]
    seconds = time.perf_counter() - started
    return {
        "images": num,
        "stored_px": settings.stored_px,
        "prepare": {
            "median_s": statistics.median(usage["seconds"] for usage in rounds),
            "rounds": rounds,
        },
        "reading_images_per_s": rates,
        "plain_loop": {"images": len(plain), "seconds": seconds, "seconds_for_all": seconds / len(plain) * num},
    }


def _stage(data: dict[str, Any], scratch: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        file = folder / "params.yaml"
        YAML(typ="safe", pure=True).dump({"data": data}, file)
        options = {"params": file, "source": file, "out": folder / "prepared", "resume": folder / "pass"}
        command = [
            "-m",
            "stages.prepare",
            *(str(word) for name, path in options.items() for word in (f"--{name}", path)),
        ]
        return asdict(watch(command, resource.RLIM_INFINITY)[0])


def _numbers(most: int) -> list[int]:
    """1, 2, 4, ... and at the end `most`."""
    return sorted({most, *(2**power for power in range(most.bit_length()) if 2**power < most)})


def _rate(reader: Reader, num: int, workers: int) -> float:
    started = time.perf_counter()
    read = sum(len(block.looks) for _, block in reader.blocks(0, workers))
    assert read == num
    return num / (time.perf_counter() - started)


def _rows(folder: Path) -> Iterator[Image.Image]:
    from datasets.load import load_dataset  # seconds to import

    with tempfile.TemporaryDirectory(prefix="pupil-") as cache:
        yield from (row["img"] for row in load_dataset(str(folder), cache_dir=cache, split="train"))


def _plain(image: Image.Image, size_px: int) -> NDArray[np.uint8]:
    """What one writes: RGB, the middle square, at the size that is stored."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.convert("RGB").crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size_px, size_px), Image.Resampling.BICUBIC))


def _line(name: str, result: dict[str, Any]) -> str:
    peak = max(usage["peak_anonymous_bytes"] for usage in result["prepare"]["rounds"])
    rates = ", ".join(f"{rate:,.0f} by {workers}" for workers, rate in result["reading_images_per_s"].items())
    return (
        f"{name}: {result['images']:,} images in {result['prepare']['median_s']:.1f} s (goal {result['goal_s']}), at "
        f"most {peak / 1e9:.2f} GB; reads {rates} processes a second; a plain loop takes "
        f"{result['plain_loop']['seconds_for_all']:.1f} s"
    )


if __name__ == "__main__":
    main()
