"""A stage in two processes: stopped, continued by torchrun, bereft of one of them, and given what it cannot divide."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.system.errors import PupilError
from stages.distill import distill
from stages.prepare import prepare
from stages.train_teacher import train_teacher
from tests import toy
from tests.processes import spawned

pytestmark = pytest.mark.slow

TRAIN = {"epochs": 1, "batch_size": 20, "milestones": [0.5], "precision": "fp32"}
PARAMS: dict[str, Any] = {
    "data": {"image_px": 16, "sources": {"digit_pairs": {"train": 200, "val": 100, "test": 100, "max_shift_px": 1}}},
    "augment": {"crop_padding_px": 2},
    "teacher": {"arch": "resnet14", "train": TRAIN},
    "student": {"arch": "resnet8"},
    "distill": {"train": TRAIN | {"epochs": 8, "processes": 2}, "methods": {"crd": {"num_negatives": 64}}},
}
FILES = {"params": "params.yaml", "data": "data", "teacher": "teacher/model.safetensors"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a teacher."""
    folder = tmp_path_factory.mktemp("project")
    write(folder, PARAMS)
    prepare(folder / "params.yaml", folder / "data")
    train_teacher(folder / "params.yaml", folder / "data", folder / "teacher", folder / "teacher.state")
    return folder


@pytest.fixture
def endless(project: Path) -> Iterator[Path]:
    """The same, with so many epochs that what stops a run from outside comes before its end on any machine."""
    many = PARAMS["distill"]["train"] | {"epochs": 10_000}
    write(project, PARAMS | {"distill": PARAMS["distill"] | {"train": many}})
    yield project
    write(project, PARAMS)


def write(folder: Path, params: dict[str, Any]) -> None:
    with (folder / "params.yaml").open("w") as file:
        YAML(typ="safe", pure=True).dump(params, file)


def arguments(folder: Path, out: str) -> dict[str, Path]:
    files = FILES | {"out": out, "resume": f"{out}.state"}
    return {name: folder / file for name, file in files.items()}


def start(folder: Path, out: str, launcher: Sequence[str] = ()) -> "subprocess.Popen[str]":
    options = [part for name, file in arguments(folder, out).items() for part in (f"--{name}", str(file))]
    command = ["-m", "stages.distill", *options, "--method", "crd", "--seed", "0"]
    return subprocess.Popen(
        [sys.executable, *launcher, *command], cwd=toy.ROOT, env=toy.environment(), stderr=subprocess.PIPE, text=True
    )


def wait_for_epoch(run: "subprocess.Popen[str]", number: int) -> None:
    assert run.stderr is not None
    for line in run.stderr:
        if line.startswith(f"epoch {number}/"):
            return
    pytest.fail("it ended before")


def losses(folder: Path, out: str) -> list[float]:
    history = json.loads((folder / out / "history.json").read_text())
    return [epoch["train"]["loss"] for epoch in history["epochs"]]


def test_a_stopped_run_goes_on_under_torchrun_and_ends_as_one_process_does(project: Path) -> None:
    with start(project, "stopped") as run:
        wait_for_epoch(run, 1)
        # To all of them, as a system that shuts down does; the one that watches passes its own on a second time.
        for process in (*spawned(run.pid), run.pid):
            os.kill(process, signal.SIGTERM)
        _, said = run.communicate()
    assert run.returncode == 128 + signal.SIGTERM
    assert said.strip().splitlines()[-1].startswith("stopped by SIGTERM in epoch")
    assert said.count("stopped by") == 1

    with start(project, "stopped", ["-m", "torch.distributed.run", "--nproc-per-node", "2"]) as run:
        _, said = run.communicate()
    assert run.returncode == 0, said
    assert said.count("resuming after epoch") == 1

    alone = PARAMS | {"distill": PARAMS["distill"] | {"train": PARAMS["distill"]["train"] | {"processes": 1}}}
    write(project, alone)
    distill(method="crd", seed=0, **arguments(project, "alone"))
    write(project, PARAMS)
    assert losses(project, "stopped") == pytest.approx(losses(project, "alone"), rel=5e-3)


def test_a_stop_before_the_first_epoch_is_told_as_one(endless: Path) -> None:
    with start(endless, "early") as run:
        while not spawned(run.pid) and run.poll() is None:
            time.sleep(0.01)
        run.send_signal(signal.SIGTERM)
        _, said = run.communicate(timeout=120)
    assert run.returncode == 128 + signal.SIGTERM
    assert said.startswith("stopped by SIGTERM")
    assert "Traceback" not in said


def test_a_lost_process_ends_all_with_one_message(endless: Path) -> None:
    with start(endless, "lost") as run:
        wait_for_epoch(run, 1)
        first, second = spawned(run.pid)
        os.kill(second, signal.SIGKILL)
        _, said = run.communicate(timeout=120)
    assert run.returncode == 1
    lines = [line for line in said.splitlines() if not line.startswith("epoch")]
    assert lines[0] == (
        "error: process 1 of 2 was ended by SIGKILL, and the training ended with it. The state of the last epoch is "
        "kept: the same command goes on from there."
    )
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    assert (endless / "lost.state").is_file()


def test_the_processes_stop_when_the_one_that_watches_is_killed(
    endless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with start(endless, "orphans") as run:
        wait_for_epoch(run, 1)
        run.kill()
        # All of them hold the other end of this pipe for as long as they live.
        run.communicate(timeout=120)
    # By torch they would be told of SIGINT, and on Linux alone.
    (said,) = (file.read_text() for file in tmp_path.rglob("said-0"))
    assert said.startswith("stopped by SIGTERM in epoch")


def test_what_cannot_be_divided_is_said_once(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    uneven = PARAMS["distill"]["train"] | {"batch_size": 66, "drop_last": False}
    write(project, PARAMS | {"distill": PARAMS["distill"] | {"train": uneven | {"processes": 3}}})
    said = "3 processes take equal parts of each batch, but an epoch would have a batch of 2 images"
    with pytest.raises(PupilError, match=said):
        distill(method="crd", seed=0, **arguments(project, "uneven"))
    write(project, PARAMS)
    by_children = capfd.readouterr().err
    assert said not in by_children
    assert "Traceback" not in by_children
