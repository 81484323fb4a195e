"""The runs of a table as Ray tasks: on this machine, or on the cluster that RAY_ADDRESS names.

A task is a pure function: settings, data and teacher come to it as bytes, and files go back. No folder is shared, so
any node will do, and what a lost node was at is started again on another. On one node, a run that was cut off goes on.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.models import checkpoint
from pipeline.sweep import cluster
from pipeline.sweep.packing import EVALUATED, pack, unpack
from pipeline.sweep.plan import Run
from pipeline.system import interruption
from pipeline.system.errors import StoppedError
from stages import _table_task

_LOOK_S = 1.0
"""Between two looks whether somebody asked to stop."""


def train(runs: list[Run], cpus: float, gpus: float | None) -> Iterator[tuple[Run, str | None]]:
    """Every run as soon as its files are in its folder, with None, or with the reason why it failed.

    Each takes that many cores and GPUs of a node (see cluster.needs). The data of all runs are prepared. Raises
    StoppedError where somebody asked to stop; what is under way saves its state then.
    """
    if not runs:  # starting Ray takes seconds
        return
    with cluster.joined(Path(__file__).parent.parent), interruption.listen() as stop:
        yield from _train(runs, cluster.needs(cpus, gpus), stop)


def _train(
    runs: list[Run], needs: dict[str, float], stop: interruption.StopRequest
) -> Iterator[tuple[Run, str | None]]:
    # Ray settles when it is imported where it will listen: see cluster.joined.
    import ray
    from ray.exceptions import RayError, RayTaskError

    # A lost node is no fault of the run: it is tried again. What the run itself cannot do is said at once.
    teacher: Any = ray.remote(_table_task.teacher).options(max_retries=3, **needs)
    student: Any = ray.remote(_table_task.student).options(max_retries=3, **needs)
    data = {folder: ray.put(pack(folder)) for folder in {f for run in runs for f in (run.data, run.teacher_data)}}
    waiting: dict[Path, list[Run]] = {}
    for run in runs:
        waiting.setdefault(run.teacher, []).append(run)
    tasks: dict[Any, Path | Run] = {}

    def students_of(folder: Path) -> None:
        taught = ray.put(pack(folder))
        tasks.update({student.remote(run, data[run.data], taught): run for run in waiting.pop(folder)})

    for folder, (first, *_) in list(waiting.items()):
        if (folder / EVALUATED).is_file():
            students_of(folder)
        else:
            tasks[teacher.remote(first, data[first.teacher_data], _table_task.weights_of(first))] = folder
    while tasks:
        now_ready, _ = ray.wait(list(tasks), num_returns=1, timeout=_LOOK_S)
        if stop.received is not None:
            raise StoppedError(
                f"stopped by {stop.received.name}, with {len(tasks)} runs begun or waiting. The same command goes on.",
                stop.received,
            )
        if not now_ready:
            continue
        (ready,) = now_ready
        done = tasks.pop(ready)
        try:
            files = unpack(ray.get(ready), done.out if isinstance(done, Run) else done)
        except RayError as error:
            reason = str(error.cause if isinstance(error, RayTaskError) else error)
            yield from ((run, reason) for run in ([done] if isinstance(done, Run) else waiting.pop(done)))
            continue
        checkpoint.load(files / "model.safetensors")
        if isinstance(done, Run):
            done.mark_done()
            yield done, None
        else:
            students_of(done)
