"""Time exported models against each other on this machine."""

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy
import onnxruntime  # type: ignore[import-untyped]

from serve import arguments as shared
from serve import json_file, machine
from serve.model.classifier import OnnxClassifier
from serve.timing import benchmark
from serve.timing import tables as benchmark_tables
from serve.timing.candidates import Candidate, best_device, open_onnx

HELP = "time exported models against each other"
_IMAGES = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `benchmark` takes."""
    shared.add_models(parser)
    shared.add_device(parser)
    parser.add_argument(
        "--batch-sizes",
        type=shared.whole(1, 4096),
        nargs="+",
        default=[1, 32],
        metavar="N",
        help="images in one call (default 1 32)",
    )
    parser.add_argument(
        "--samples",
        type=shared.whole(1, 1_000_000),
        default=700,
        help="calls to time at batch 1; a p99 needs 662 (default 700)",
    )
    parser.add_argument(
        "--warmup", type=shared.whole(1, 1_000_000), default=20, help="calls before each measurement (default 20)"
    )
    parser.add_argument(
        "--seed",
        type=shared.whole(0, shared.SEED),
        default=0,
        help="seed of the pixels, the order and the intervals (default 0)",
    )
    parser.add_argument(
        "--thread-counts",
        type=shared.whole(1, 1_000_000),
        nargs="+",
        default=[],
        metavar="N",
        help="measure with these numbers of threads too",
    )
    parser.add_argument(
        "--cold-starts",
        type=shared.whole(1, 1000),
        default=0,
        help="start each file in so many new processes too (default 0)",
    )
    parser.add_argument(
        "--loadgen",
        type=shared.number(0.001, shared.DAY_S),
        metavar="SECONDS",
        help="run MLPerf's scenarios too, each for so long",
    )
    parser.add_argument(
        "--server-p99-ms",
        type=shared.number(0.001, 1000 * shared.DAY_S),
        default=10.0,
        help="bound on p99 in the scenario Server (default 10)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to this file too")


def main(arguments: argparse.Namespace) -> None:
    """Print tables; with --json, also write what they show, machine and versions there."""
    paths, threads, seed = arguments.models, arguments.threads, arguments.seed
    cards = [OnnxClassifier(path, device="cpu").card for path in paths]
    names = [card.full_name for card in cards]
    if len(set(names)) < len(names):
        names = [f"{name}#{position}" for position, name in enumerate(names, 1)]
    device = best_device(paths[0]) if arguments.device == "auto" else arguments.device
    generator = numpy.random.default_rng(seed)
    candidates = [
        Candidate(
            name,
            path,
            generator.integers(0, 256, (_IMAGES, card.image_px, card.image_px, 3), dtype=numpy.uint8),
            open_onnx,
            threads,
            device,
        )
        for name, path, card in zip(names, paths, cards, strict=True)
    ]
    plan = benchmark.Plan(
        batch_sizes=tuple(arguments.batch_sizes),
        samples=arguments.samples,
        warmup=arguments.warmup,
        seed=seed,
        thread_counts=tuple(arguments.thread_counts),
        cold_starts=arguments.cold_starts,
        loadgen=None if arguments.loadgen is None else benchmark.LoadGen(arguments.loadgen, arguments.server_p99_ms),
    )
    if (warning := benchmark.busy()) is not None:
        print(warning, file=sys.stderr)
    load = machine.load_average()
    batches, _ = benchmark.side_by_side(candidates, [(name, names[0]) for name in names[1:]], plan)
    records = [benchmark.one_by_one(candidate, plan) for candidate in candidates]
    tables = [
        benchmark_tables.side_by_side(batches),
        benchmark_tables.ratios(batches),
        benchmark_tables.pauses(batches),
        benchmark_tables.one_by_one(records),
    ]
    print("\n\n".join(filter(None, tables)))
    if arguments.json is None:
        return
    report = {
        "machine": machine.describe()
        | {"packages": {"onnxruntime": onnxruntime.__version__, "numpy": numpy.__version__}},
        "load_average": load,
        "device": device,
        "threads": threads,
        "seed": seed,
        "batches": batches,
        "candidates": records,
        "cards": {name: dataclasses.asdict(card) for name, card in zip(names, cards, strict=True)},
    }
    json_file.write(arguments.json, report)
