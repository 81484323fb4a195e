"""Time exported models against each other on this machine."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import numpy
import onnxruntime  # type: ignore[import-untyped]

from serve import arguments as shared
from serve import benchmark, machine
from serve.errors import ServeError
from serve.model import OnnxClassifier

HELP = "time exported models against each other"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `benchmark` takes."""
    shared.add_models(parser)
    parser.add_argument(
        "--batch-sizes", type=shared.positive, nargs="+", default=[1, 32], metavar="N", help="(default 1 32)"
    )
    parser.add_argument("--samples", type=shared.positive, default=700, help="rounds; p99 needs 662 (default 700)")
    parser.add_argument("--seed", type=int, default=0, help="of pixels, order and intervals (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there too")


def main(arguments: argparse.Namespace) -> None:
    """Print a table; with --json, also write rows, machine and versions there."""
    paths, threads, seed = arguments.models, arguments.threads, arguments.seed
    loaded = [OnnxClassifier(path, threads) for path in paths]
    names = [model.card.name for model in loaded]
    if len(set(names)) < len(names):
        names = [f"{name}#{position}" for position, name in enumerate(names, 1)]
    models = dict(zip(names, loaded, strict=True))
    load, cores = machine.load_average(), machine.num_cores()
    if load > 0.5 * cores:
        print(f"Warning: load average {load:.1f} on {cores} cores; only the ratios can be trusted.", file=sys.stderr)
    rows = [row for size in arguments.batch_sizes for row in benchmark.compare(models, size, arguments.samples, seed)]
    print(benchmark.table(rows))
    if arguments.json is None:
        return
    report = {
        "models": {
            name: {"path": str(path), "card": dataclasses.asdict(model.card)}
            for (name, model), path in zip(models.items(), paths, strict=True)
        },
        "rows": [row.to_dict() for row in rows],
        "threads": threads,
        "seed": seed,
        "machine": machine.describe(),
        "load_average_before": load,
        "versions": {"onnxruntime": onnxruntime.__version__, "numpy": numpy.__version__},
    }
    out: Path = arguments.json
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ServeError(f"{out} could not be written ({error.strerror}); the table above is complete.") from error
