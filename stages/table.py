"""Train what is missing of a table of pairs x methods x seeds, and write the table anew. No stage of the DAG.

    python -m stages.table --pairs a,f --methods vanilla,kd --seeds 0,1,2 --protocol unified --out artifacts/table

Each step is a stage of the DAG run as a process of its own; a run that is killed goes on where it stopped.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.errors import ParamsError, PupilError
from pipeline.files import replacing, write_json
from pipeline.sweep import Run, plan
from pipeline.table import aggregate, markdown
from serve import machine
from stages import _run


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
    missing = [run for run in runs if not run.is_done()]
    print(f"{len(runs)} runs, {len(missing)} of them missing", flush=True)
    _write(runs, protocol, published, out)
    for number, run in enumerate(missing, start=1):
        print(f"[{number}/{len(missing)}] {run.pair} {run.method} seed {run.seed}", flush=True)
        _train(run)
        _write(runs, protocol, published, out)


def _train(run: Run) -> None:
    teacher, student = run.teacher / "model.safetensors", run.out / "model.safetensors"
    settings, of_teacher = _settings(run.out, run.params), _settings(run.teacher, run.teacher_params)
    for data, params in ((run.data, settings), (run.teacher_data, of_teacher)):
        if not (data / "card.json").is_file():
            _stage("prepare", params=params, out=data)
    if not (run.teacher / "evaluation.json").is_file():
        place = {"params": of_teacher, "data": run.teacher_data}
        if not teacher.is_file():
            _stage("train_teacher", **place, out=run.teacher, resume=run.teacher / "resume")
        _stage("evaluate", **place, model=teacher, out=run.teacher / "evaluation.json")
    _stage(
        "distill",
        params=settings,
        method=run.method,
        seed=run.seed,
        teacher=teacher,
        data=run.data,
        out=run.out,
        resume=run.out / "resume",
    )
    _stage("evaluate", params=settings, model=student, data=run.data, teacher=teacher, out=run.out / "evaluation.json")
    run.mark_done()


def _settings(folder: Path, params: dict[str, Any]) -> Path:
    # Not params.yaml: DVCLive removes a file of that name from its folder.
    path = folder / "settings.yaml"
    with replacing(path) as scratch:
        YAML(typ="safe", pure=True).dump(params, scratch)
    return path


def _stage(name: str, **arguments: Any) -> None:
    command = [sys.executable, "-m", f"stages.{name}"]
    for option, value in arguments.items():
        command += [f"--{option}", str(value)]
    if subprocess.run(command, check=False).returncode != 0:
        raise PupilError(f"the stage above failed. To see it again: {' '.join(command)}")


def _write(runs: list[Run], protocol: str, published: Path, out: Path) -> None:
    done = [run for run in runs if run.is_done()]
    facts = {
        "title": f"Methods and pairs, protocol {protocol}",
        "remarks": [f"{len(done)} of {len(runs)} runs are finished."],
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
