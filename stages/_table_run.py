"""What a run of the table is made of: data, teacher and student, each by its stage, as a process of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.sweep.packing import EVALUATED
from pipeline.system import interruption
from pipeline.system.errors import PupilError
from pipeline.system.files import replacing

TRAINED = "history.json"
"""The last file that a training leaves."""


def prepare(params: dict[str, Any], out: Path) -> None:
    """Prepare the data of `params` (a whole params.yaml as plain data), unless they are there."""
    if not (out / "card.json").is_file():
        _stage("prepare", params=write_settings(out.parent / f"{out.name}-settings", params), out=out)


def train_teacher(params: dict[str, Any], data: Path, out: Path) -> None:
    """Train and evaluate the teacher, unless that is done."""
    if (out / EVALUATED).is_file():
        return
    settings, model = write_settings(out, params), out / "model.safetensors"
    if not (out / TRAINED).is_file():
        _stage("train_teacher", params=settings, data=data, out=out, resume=out / "resume")
    _stage("evaluate", params=settings, data=data, model=model, out=out)


def train_student(params: dict[str, Any], method: str, seed: int, data: Path, teacher: Path, out: Path) -> None:
    """Distil and evaluate one student of the teacher in the folder `teacher`.

    Raises PupilError, as the others here, with the stage that failed and the last thing that it said.
    """
    known = {"params": write_settings(out, params), "data": data, "out": out}
    weights = teacher / "model.safetensors"
    cut = {}
    if not (out / TRAINED).is_file():
        if params["student"].get("pruned"):
            cut["start"] = out / "start"
            _stage("cut_student", params=known["params"], teacher=weights, data=data, out=cut["start"])
        _stage("distill", **known, teacher=weights, method=method, seed=seed, resume=out / "resume", **cut)
    _stage("evaluate", **known, teacher=teacher / "logits.npy", model=out / "model.safetensors")


def write_settings(folder: Path, params: dict[str, Any]) -> Path:
    """Write a whole params.yaml, given as plain data, to a file of another name in `folder`; the path."""
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
    environment = os.environ | {interruption.PARENT: str(os.getpid())}
    # In a session of its own: Ray kills the process group of a worker that ends.
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True) as stage:
        assert stage.stderr is not None
        for line in stage.stderr:
            last = line.strip() or last
            print(line, end="", file=sys.stderr, flush=True)
    if stage.returncode < 0:
        number = -stage.returncode
        why = " (the system does so where memory runs out)" if number == signal.SIGKILL else ""
        raise PupilError(f"{name} was ended by signal {number}{why}. The last line that it wrote is: {last}")
    if stage.returncode != 0:
        raise PupilError(f"{name}: {last.removeprefix('error: ') or f'exit status {stage.returncode}'}")
