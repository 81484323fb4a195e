"""How long `dvc repro` takes where nothing is to be done: finished checkouts compared, in turns.

    python -m benchmarks.noop before=../before after=. --times 10 --out results/noop_cpu.json

DVC looks at every file that a stage names before it says that nothing changed, and at every file of a folder that a
stage names. Each checkout must have been through a `dvc repro`; its own dvc.yaml is used.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import provenance
from pipeline.system.files import write_json
from serve import machine


def main() -> None:
    """Time the checkouts in turns, print the medians, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.noop", description="Time `dvc repro` without work.")
    parser.add_argument("checkouts", nargs="+", metavar="NAME=FOLDER", help="finished checkouts, the base first")
    parser.add_argument("--times", type=int, default=10, help="runs of each checkout")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    arguments = parser.parse_args()
    folders = {name: Path(folder) for name, folder in (given.split("=", 1) for given in arguments.checkouts)}
    load_before = machine.load_average()
    for folder in folders.values():
        _repro(folder)  # the first one fills DVC's record of files
    seconds: dict[str, list[float]] = {name: [] for name in folders}
    for number in range(arguments.times):
        for name, folder in folders.items():
            seconds[name].append(_repro(folder))
        print(f"[{number + 1}/{arguments.times}] { ({name: round(taken[-1], 2) for name, taken in seconds.items()}) }")
    base, *others = seconds
    result = provenance.head("noop", load_before, "dvc", after=True) | {
        "stages": {name: _stages(folder) for name, folder in folders.items()},
        "seconds": seconds,
        "median_s": {name: statistics.median(taken) for name, taken in seconds.items()},
        "ratio_of_medians": {
            name: statistics.median(seconds[name]) / statistics.median(seconds[base]) for name in others
        },
    }
    print(result["median_s"], result["ratio_of_medians"])
    write_json(arguments.out, result)


def _repro(folder: Path) -> float:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"], cwd=folder, capture_output=True, text=True, check=True
    )
    taken = time.perf_counter() - started
    # Preflight checks params.yaml at every run, in a second or so.
    if ran := set(re.findall(r"^Running stage '(.+)':$", done.stdout, re.MULTILINE)) - {"preflight"}:
        sys.exit(f"In {folder} there was something to do: {sorted(ran)}. Run `dvc repro` there first.")
    return taken


def _stages(folder: Path) -> int:
    listed = subprocess.run(
        [sys.executable, "-m", "dvc", "stage", "list", "--name-only"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return len(listed.stdout.split())


if __name__ == "__main__":
    main()
