"""Train what is missing of a table of pairs x methods x seeds, and write the table anew. No stage of the DAG.

    python -m stages.table --pairs a,f --methods vanilla,kd --seeds 0,1,2 --protocol unified --out artifacts/table

The runs are spread over this machine by Ray, or over the cluster RAY_ADDRESS names; each is kept the moment it ends.
A method that cannot serve a pair is left out before anything trains, and a run that fails does not hold up the others.
"""

import sys
import time
from pathlib import Path

from pipeline.evaluation import published as figures
from pipeline.sweep.plan import Run, plan, refusals
from pipeline.sweep.table import aggregate, markdown
from pipeline.system.errors import ParamsError, PupilError
from pipeline.system.files import replacing, write_json
from serve import machine
from stages import _run, _table_ray
from stages._table_run import prepare


def table(
    pairs: str,
    methods: str,
    seeds: str = "0",
    protocol: str = "unified",
    params: Path = Path("params.yaml"),
    presets: Path = Path("presets"),
    published: Path = Path("results/published_top1.yaml"),
    out: Path = Path("artifacts/table"),
    cpus: float = 2,
    gpus: float | None = None,
) -> None:
    """Train every missing run of the table, write its RESULTS.md and results.json; lists are comma-separated.

    Each run takes --cpus cores, of which two are used better by a small network than four, and --gpus, which may be a
    part of one (0.5: two runs on each GPU).
    """
    if not all(seed.isdecimal() for seed in seeds.split(",")):
        raise ParamsError(f"--seeds is '{seeds}': expected whole numbers separated by commas, such as 0,1,2.")
    for name, listed in (("pairs", pairs), ("methods", methods), ("seeds", seeds)):
        if len(parts := listed.split(",")) > len(set(parts)):
            raise ParamsError(f"--{name} is '{listed}': expected a list in which nothing stands twice.")
    for name, value in (("cpus", cpus), ("gpus", gpus)):
        if value is not None and not 0 <= value <= 10_000:
            raise ParamsError(f"--{name} is {value}: expected a number in 0..10,000, of each run.")
    numbers = map(int, seeds.split(","))
    runs = plan(params, presets, pairs.split(","), methods.split(","), list(numbers), protocol, out)
    remarks = []
    refused = refusals(run for run in runs if not run.is_done())
    for (pair, method), why in refused.items():
        remarks.append(f"{method} is left out of {pair}: {why}")
        print(remarks[-1], file=sys.stderr)
    runs = [run for run in runs if (run.pair, run.method) not in refused]
    missing = [run for run in runs if not run.is_done()]
    print(f"{len(runs)} runs, {len(missing)} of them missing", flush=True)
    for run in runs:
        prepare(run.params, run.data)
        prepare(run.teacher_params, run.teacher_data)
    _write(runs, remarks, protocol, published, out)
    failed, started = 0, time.monotonic()
    for number, (run, reason) in enumerate(_table_ray.train(missing, cpus, gpus), start=1):
        name = f"{run.pair} {run.method} seed {run.seed}"
        if reason is not None:
            failed += 1
            remarks.append(f"{name} failed: {reason}")
        _write(runs, remarks, protocol, published, out)
        left = (time.monotonic() - started) / number * (len(missing) - number)
        print(f"[{number}/{len(missing)}] {name}: {reason or 'done'}; about {left / 60:.0f} min left", flush=True)
    if failed or not runs:
        raise PupilError(f"{failed} of {len(missing)} runs failed, {len(refused)} could not be trained, as said above.")


def _write(runs: list[Run], remarks: list[str], protocol: str, published: Path, out: Path) -> None:
    done = [run for run in runs if run.is_done()]
    facts = {
        "title": f"Methods and pairs, protocol {protocol}",
        "remarks": [f"{len(done)} of {len(runs)} runs are finished.", *remarks],
        "protocol": protocol,
        "command": "python -m stages.table " + " ".join(sys.argv[1:]),
        "machine": machine.describe(),
    }
    results = aggregate(done, figures.read(published), facts)
    write_json(out / protocol / "results.json", results)
    with replacing(out / protocol / "RESULTS.md") as scratch:
        scratch.write_text(markdown(results), encoding="utf-8")


if __name__ == "__main__":
    _run.main(table)
