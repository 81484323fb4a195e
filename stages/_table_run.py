"""One run of the table: data, teacher and student, each by the stage of the DAG, as a process of its own."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.errors import PupilError
from pipeline.files import replacing
from pipeline.sweep import Run


def train(run: Run) -> None:
    """Train and evaluate the student of `run`, and before it what it needs and is not there yet.

    Raises PupilError with the stage that failed and the last thing it said.
    """
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
    last = ""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as stage:
        assert stage.stderr is not None
        for line in stage.stderr:
            last = line.strip() or last
            print(line, end="", file=sys.stderr, flush=True)
    if stage.returncode != 0:
        raise PupilError(f"{name}: {last.removeprefix('error: ') or f'exit status {stage.returncode}'}")
