"""Ray on this machine, or the cluster that RAY_ADDRESS names, for work that falls into independent parts."""

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.system.alone import alone_at
from pipeline.system.errors import ParamsError

_ROOT = Path(__file__).parents[2]
_NOT_CODE = ["/.git", "/.dvc", "/artifacts", "/benchmarks", "/data", "/docs", "/report", "/results", "/tests", "/.venv"]


@contextmanager
def joined(root: Path) -> Iterator[None]:
    """Within the block Ray runs; the code below `root` goes to every node. A Ray made here ends with the block."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would end by SIGKILL what its workers have started; stages hear of a worker's end, and save their state.
    os.environ.setdefault("RAY_kill_child_processes_on_worker_exit", "false")
    address = os.environ.get("RAY_ADDRESS", "local")
    if address == "local":
        # Ray's switch for systems that it runs no clusters on, read when it is imported: it listens on loopback alone.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    code = {"working_dir": str(root), "excludes": _NOT_CODE}
    ray.init(address, runtime_env=code, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def needs(cpus: float, gpus: float | None) -> dict[str, float]:
    """What a task asks of a node, as options for Ray: cores and GPUs, or parts of them; None is a GPU if there is any.

    Raises ParamsError when no node has that much: the task would wait forever.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = float(any("GPU" in node for node in nodes)) if gpus is None else gpus
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        have = "; ".join(f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in nodes)
        raise ParamsError(
            f"each run asks for {cpus:g} CPU and {gpus:g} GPU, but the nodes have {have}. Lower --cpus or --gpus."
        )
    return {"num_cpus": cpus, "num_gpus": gpus}


@contextmanager
def own_folders(name: str) -> Iterator[tuple[Path, Path]]:
    """Two folders on this node for one piece of work: for what it takes, which is gone afterwards, and what it makes.

    They are the same for the same work by the same code: what was cut off here goes on here. Another attempt at it, of
    another table perhaps, waits until this one has ended.
    """
    code = hashlib.sha256()
    for path in sorted(path for room in ("pipeline", "stages") for path in (_ROOT / room).rglob("*.py")):
        code.update(path.read_bytes())
    made = Path(tempfile.gettempdir()) / f"pupil-{os.getuid()}" / f"{name}-{code.hexdigest()[:8]}"
    taken = made.with_name(f"{made.name}-taken")
    made.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with alone_at(made):
        try:
            yield taken, made
        finally:
            shutil.rmtree(taken, ignore_errors=True)
