"""Train what is missing of a table of pairs x methods x seeds, and write the table anew. No stage of the DAG.

    python -m stages.table --pairs a,f --methods vanilla,kd --seeds 0,1,2 --protocol unified --out artifacts/table

Each step is a stage of the DAG run as a process of its own; a run that is killed goes on where it stopped. A method
that cannot serve a pair is left out before anything trains, and a run that fails does not hold up the others.
"""

import sys
from pathlib import Path

from ruamel.yaml import YAML

from pipeline.errors import ParamsError, PupilError
from pipeline.files import replacing, write_json
from pipeline.sweep import Run, plan, refusals
from pipeline.table import aggregate, markdown
from serve import machine
from stages import _run
from stages._table_run import train


def table(
    pairs: str,
    methods: str,
    seeds: str = "0",
    protocol: str = "unified",
    params: Path = Path("params.yaml"),
    presets: Path = Path("presets"),
    published: Path = Path("results/published_top1.yaml"),
    out: Path = Path("artifacts/table"),
) -> None:
    """Train every missing run of the table, write its RESULTS.md and results.json; lists are comma-separated."""
    if not all(seed.isdecimal() for seed in seeds.split(",")):
        raise ParamsError(f"--seeds is '{seeds}': expected whole numbers with commas between them, such as 0,1,2.")
    numbers = map(int, seeds.split(","))
    runs = plan(params, presets, pairs.split(","), methods.split(","), list(numbers), protocol, out)
    remarks = []
    refused = refusals(run for run in runs if not run.is_done())
    for (pair, method), reason in refused.items():
        remarks.append(f"{method} is left out of {pair}: {reason}")
        print(remarks[-1], file=sys.stderr)
    runs = [run for run in runs if (run.pair, run.method) not in refused]
    missing = [run for run in runs if not run.is_done()]
    print(f"{len(runs)} runs, {len(missing)} of them missing", flush=True)
    failed = 0
    _write(runs, remarks, protocol, published, out)
    for number, run in enumerate(missing, start=1):
        name = f"{run.pair} {run.method} seed {run.seed}"
        print(f"[{number}/{len(missing)}] {name}", flush=True)
        try:
            train(run)
        except PupilError as error:
            failed += 1
            remarks.append(f"{name} failed: {error}")
            print(f"failed, and the others go on: {error}", file=sys.stderr)
        _write(runs, remarks, protocol, published, out)
    if failed or not runs:
        raise PupilError(f"{failed} of {len(missing)} runs failed and {len(refused)} were left out, as said above.")


def _write(runs: list[Run], remarks: list[str], protocol: str, published: Path, out: Path) -> None:
    done = [run for run in runs if run.is_done()]
    facts = {
        "title": f"Methods and pairs, protocol {protocol}",
        "remarks": [f"{len(done)} of {len(runs)} runs are finished.", *remarks],
        "protocol": protocol,
        "command": "python -m stages.table " + " ".join(sys.argv[1:]),
        "machine": machine.describe(),
    }
    results = aggregate(done, YAML(typ="safe", pure=True).load(published), facts)
    write_json(out / protocol / "results.json", results)
    with replacing(out / protocol / "RESULTS.md") as scratch:
        scratch.write_text(markdown(results), encoding="utf-8")


if __name__ == "__main__":
    _run.main(table)
