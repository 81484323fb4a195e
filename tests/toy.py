"""A whole project in a folder of its own, small enough to train in seconds: real code, real DVC, tiny numbers."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests import forks

ROOT = Path(__file__).parent.parent
CODE = ("pipeline", "stages", "serve")
FILES = (
    *("dvc.yaml", "params.yaml", ".gitignore", ".dvcignore"),
    *(".dvc/plots/by_candidate.json", "results/published_top1.yaml"),
)
OUTPUTS = ("artifacts", "data", "report")

SMALL = {
    "data.image_px": 16,
    "data.sources.digit_pairs": {"train": 200, "val": 100, "test": 100, "max_shift_px": 1},
    "teacher.arch": "resnet14",
    "teacher.train.epochs": 2,
    "student.arch": "resnet8",
    "distill.train.epochs": 2,
    "distill.methods": {"vanilla": {}, "kd": {"kl_weight": 0.9, "temperature": 4.0}},
    "deploy.method": "kd",
    "benchmark.batch_sizes": [1, 2],
    "benchmark.samples": 70,
    "benchmark.warmup": 1,
    "benchmark.thread_counts": [1],
    "benchmark.cold_starts": 1,
    "benchmark.loadgen.seconds": 0.02,
}


def environment() -> dict[str, str]:
    """What a person's shell holds after activating the virtual environment; no accelerator, so that bits repeat.

    One thread: other tests run beside it, and more threads than cores wait for each other by spinning.
    """
    dropped = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    kept = {k: v for k, v in os.environ.items() if k not in dropped and not k.startswith("DVC_")}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "DVC_GLOBAL_CONFIG_DIR": str(ROOT / "no such folder"),
        "OMP_NUM_THREADS": "1",
        # Ray's workers step back before all others, and other tests run beside these.
        "RAY_worker_niceness": "0",
        "CUDA_VISIBLE_DEVICES": "",
    }


def at_once() -> dict[str, str]:
    """The same, with a `python` and a `dvc` that need no time to start; for all but tests of signals."""
    started = environment()
    if sys.platform != "linux":  # elsewhere a copy of a process may not use all of its libraries
        return started
    return started | {"PATH": f"{forks.folder()}{os.pathsep}{started['PATH']}"}


def make(folder: Path, changes: Mapping[str, Any] = SMALL) -> Path:
    """The project's own code and DAG with small numbers, in a new git and DVC repository of one commit."""
    for name in CODE:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    run(folder, "git", "init", "-q")
    run(folder, "python", "-m", "dvc", "init", "-q")
    for name in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    edit(folder, changes)
    (folder / "dvc.lock").write_text("schema: '2.0'\n")  # nothing ran here; the checkout's own records its last run
    # What DVC remembers of a repository outside of it goes with the folder too; whole, for experiments run elsewhere.
    (folder / ".dvc/config").write_text(f"[core]\n    site_cache_dir = {folder}/.dvc/tmp/site\n")
    run(folder, "git", "add", "-A")
    run(folder, "git", "-c", "user.name=Toy", "-c", "user.email=toy@example.org", "commit", "-q", "-m", "Toy")
    return folder


def edit(folder: Path, changes: Mapping[str, Any]) -> None:
    """Set values of params.yaml by their dotted keys, as a person would in an editor."""
    yaml = YAML()
    path = folder / "params.yaml"
    document = yaml.load(path)
    for key, value in changes.items():
        *sections, name = key.split(".")
        section = document
        for step in sections:
            section = section[step]
        section[name] = value
    yaml.dump(document, path)


def run(folder: Path, *command: str) -> str:
    """Run a command there; stdout and stderr together. It must succeed."""
    result = subprocess.run(
        command,
        cwd=folder,
        env=at_once(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{' '.join(command)} failed in {folder}:\n{result.stdout}"
    return result.stdout


def repro(folder: Path, *arguments: str) -> tuple[set[str], str]:
    """`dvc repro`: the stages whose command it ran (with --dry: would run next), preflight apart, and its output."""
    output = run(folder, "python", "-m", "dvc", "repro", *arguments)
    stages = re.findall(r"^Running stage '(.+)':$", output, re.MULTILINE)
    assert "preflight" in stages, output
    return set(stages) - {"preflight"}, output


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that the pipeline left behind, and of dvc.lock."""
    files = [path for name in OUTPUTS for path in (folder / name).rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in [*files, folder / "dvc.lock"]
    }
