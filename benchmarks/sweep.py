"""Wall time of a small table on one Ray node and on two, which are processes of this machine with a core each.

    python -m benchmarks.sweep --out results/sweep_nodes.json

Data and teacher are there before the clock starts, so that what is timed is the students and what Ray takes to spread
them: starting a worker on each node, sending code, data and teacher, fetching the results. Both tables must be equal.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster
from ruamel.yaml import YAML

from benchmarks import provenance
from pipeline.system.files import write_json
from serve import machine

TRAIN = {"epochs": 6, "batch_size": 32, "milestones": [0.5]}
PARAMS: dict[str, Any] = {
    "data": {"image_px": 16, "sources": {"digit_pairs": {"train": 2000, "val": 200, "test": 200, "max_shift_px": 1}}},
    "augment": {"crop_padding_px": 2},
    "distill": {"methods": {"vanilla": {}}},
}
PRESETS: dict[str, Any] = {
    "pairs/small.yaml": {"teacher": {"arch": "resnet14"}, "student": {"arch": "resnet8"}},
    "protocols/short.yaml": {"teacher": {"train": TRAIN | {"epochs": 1}}, "distill": {"train": TRAIN}},
}
NO_FIGURES: dict[str, Any] = {"networks": {}, "variants": {}, "plain": [], "augmented": []}


def main() -> None:
    """Time the table with each number of nodes and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description="Time a table on 1 and 2 nodes.")
    parser.add_argument("--methods", default="kd,at,sp,dist")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    load = machine.load_average()
    rounds: list[dict[str, float]] = []
    tables = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_project(folder)
        for nodes in (1, 2, 2, 1):
            seconds, table = _timed(folder, f"{len(rounds)}", nodes, arguments.methods, arguments.seeds)
            rounds.append({"nodes": nodes, "seconds": seconds})
            tables.append(table)
            print(rounds[-1], flush=True)
    if any(table != tables[0] for table in tables):
        raise SystemExit("the tables differ")
    runs = len(arguments.methods.split(",")) * len(arguments.seeds.split(","))
    result = {
        **provenance.head("sweep", load, "torch", "ray"),
        "runs": runs,
        "params": PARAMS,
        "presets": PRESETS,
        "rounds": rounds,
    }
    write_json(arguments.out, result)


def write_project(folder: Path) -> None:
    """Parameters and presets of the table: networks and data that take seconds."""
    yaml = YAML(typ="safe", pure=True)
    files = {"params.yaml": PARAMS, "published.yaml": NO_FIGURES} | {
        f"presets/{name}": v for name, v in PRESETS.items()
    }
    for name, values in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("w", encoding="utf-8") as file:
            yaml.dump(values, file)


def _timed(folder: Path, out: str, nodes: int, methods: str, seeds: str) -> tuple[float, Any]:
    """Seconds that the students take on that many nodes, and what the table says of them."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=1)
        environment = os.environ | {"RAY_ADDRESS": cluster.address, "OMP_NUM_THREADS": "1"}
        _table(folder, out, environment, "vanilla", "0")
        started = time.monotonic()
        _table(folder, out, environment, methods, seeds)
        seconds = time.monotonic() - started
    finally:
        cluster.shutdown()
    return seconds, json.loads((folder / out / "short/results.json").read_text(encoding="utf-8"))["pairs"]


def _table(folder: Path, out: str, environment: dict[str, str], methods: str, seeds: str) -> None:
    files = {"params": "params.yaml", "presets": "presets", "published": "published.yaml", "out": out}
    paths = [part for name, file in files.items() for part in (f"--{name}", str(folder / file))]
    choice = ["--pairs", "small", "--protocol", "short", "--methods", methods, "--seeds", seeds, "--cpus", "1"]
    command = [sys.executable, "-m", "stages.table", *paths, *choice]
    run = subprocess.run(command, env=environment, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if run.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{run.stdout.decode(errors='replace')}")


if __name__ == "__main__":
    main()
