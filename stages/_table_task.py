"""What a node does for a table: a teacher or a student from what was sent to it, and its files back."""

from pathlib import Path

import numpy as np

from pipeline.sweep import cluster
from pipeline.sweep.packing import Files, pack, pack_and_remove, unpack
from pipeline.sweep.plan import Run
from stages import _table_run

_WEIGHTS = "weights"


def weights_of(run: Run) -> Files:
    """The file or folder that teacher.weights names, if it names one, to be sent along."""
    named = run.teacher_params["teacher"].get("weights")
    if not named:
        return {}
    path = Path(named).expanduser()
    return pack(path) if path.is_dir() else {_WEIGHTS: np.fromfile(path, np.uint8)}


def teacher(run: Run, data: Files, weights: Files) -> Files:
    """Train and evaluate the run's teacher, or take it from the weights that were sent along."""
    with cluster.own_folders(run.teacher.name) as (taken, out):
        params = run.teacher_params
        if weights:
            # teacher.weights may name a file that this node does not have, or has at another place.
            folder = unpack(weights, taken / _WEIGHTS)
            path = folder / _WEIGHTS if list(weights) == [_WEIGHTS] else folder
            params = {**params, "teacher": {**params["teacher"], "weights": str(path)}}
        _table_run.train_teacher(params, unpack(data, taken / "data"), out)
        return pack_and_remove(out)


def student(run: Run, data: Files, teacher: Files) -> Files:
    """Train and evaluate the run's student."""
    with cluster.own_folders(run.key) as (taken, out):
        places = unpack(data, taken / "data"), unpack(teacher, taken / "teacher")
        _table_run.train_student(run.params, run.method, run.seed, *places, out)
        return pack_and_remove(out)
