"""`python -m stages.table` in the toy project: it trains what is missing, and only that, though a node is lost."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from pipeline.system.errors import PupilError
from stages import _table_run
from tests import toy
from tests.waiting import until

pytestmark = pytest.mark.slow

NETWORKS = "teacher: {arch: resnet14}\nstudent: {arch: resnet8}\n"
PRESETS = {
    "pairs/tiny.yaml": NETWORKS,
    "pairs/hopeless.yaml": NETWORKS + "distill: {methods: {kd: {kl_weight: 1.0e+38}}}\n",
    "protocols/tiny.yaml": "teacher: {train: {epochs: 1}}\ndistill: {train: {epochs: 1}}\n",
    "protocols/long.yaml": "teacher: {train: {epochs: 1}}\ndistill: {train: {epochs: 10000}}\n",
}
METHODS = "vanilla,norm,at"


@pytest.fixture(scope="module", autouse=True)
def own_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where nodes work: work that an older table left in the system's place would count as done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("nodes")))
        patch.setenv("RAY_TMPDIR", "/tmp")  # sockets have short names
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = toy.make(tmp_path_factory.mktemp("table"))
    for path, text in PRESETS.items():
        (folder / "presets" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "presets" / path).write_text(text)
    return folder


def command(methods: str, pair: str = "tiny", out: str = "artifacts/table", protocol: str = "tiny") -> list[str]:
    options = {"pairs": pair, "methods": methods, "protocol": protocol, "out": out, "cpus": "2"}
    return ["python", "-u", "-m", "stages.table", *(part for k, v in options.items() for part in (f"--{k}", v))]


def numbers(out: Path) -> Any:
    """What the table says, but for the machine and the time."""
    return json.loads((out / "tiny/results.json").read_text())["pairs"]


@pytest.fixture(scope="module")
def table(project: Path) -> Path:
    """The folder of a table that was filled in two steps."""
    assert "1 runs, 1 of them missing" in toy.run(project, *command("vanilla"))
    out = project / "artifacts" / "table"
    trained = next(out.rglob("vanilla/0/model.safetensors"))
    before = trained.stat().st_mtime_ns

    said = toy.run(project, *command(METHODS))
    assert "3 runs, 2 of them missing" in said
    assert re.search(r"^\[1/2\] tiny (norm|at) seed 0", said, re.MULTILINE), said
    assert trained.stat().st_mtime_ns == before
    assert len(list(out.glob("teachers/*/model.safetensors"))) == 1
    return out


def test_a_table_is_filled_and_only_what_is_missing_is_trained(project: Path, table: Path) -> None:
    results = numbers(table)
    assert set(results["tiny"]) == {"vanilla", "norm", "at"}
    assert results["tiny"]["norm"]["num_parameters"] == results["tiny"]["vanilla"]["num_parameters"]
    assert "| norm | **" in (table / "tiny" / "RESULTS.md").read_text()
    assert "0 of them missing" in toy.run(project, *command(METHODS))


def test_a_table_is_complete_and_the_same_though_a_node_is_lost(
    project: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The nodes are started from here, and numbers are the same on as many threads.
    for name, value in toy.environment().items():
        monkeypatch.setenv(name, value)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        second = nodes.add_node(num_cpus=2)
        environment = toy.environment() | {"RAY_ADDRESS": nodes.address}
        with subprocess.Popen(
            command(METHODS, out="lossy"), cwd=project, env=environment, stdout=subprocess.PIPE, text=True
        ) as run:
            assert run.stdout is not None
            said = [next(line for line in run.stdout if line.startswith("[1/3]"))]
            # Two runs are left, one on each node.
            nodes.remove_node(second, allow_graceful=False)
            said.append(run.stdout.read())
        assert run.returncode == 0, said
    finally:
        nodes.shutdown()
    assert "[3/3]" in said[-1]
    assert numbers(project / "lossy") == numbers(table)


def test_a_run_that_fails_and_one_that_cannot_be_do_not_hold_up_the_others(
    project: Path, table: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(project, tmp_path / "project")
    # Weights from outside go along to the node that takes them.
    shutil.copy2(next((table / "teachers").glob("*/model.safetensors")), copy / "artifacts")
    toy.edit(copy, {"distill.train.batch_size": 21, "teacher.weights": "artifacts/model.safetensors"})
    run = subprocess.run(
        command("semckd,kd,vanilla", "hopeless"),
        cwd=copy,
        env=toy.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    done = re.search(r"^\[\d/2\] hopeless vanilla seed 0: done; about \d+ min left$", run.stdout, re.MULTILINE)
    assert done, run.stdout
    assert run.stderr.strip().splitlines()[-1] == "error: 1 of 2 runs failed, 1 could not be trained, as said above."
    text = (copy / "artifacts/table/tiny/RESULTS.md").read_text()
    assert "1 of 2 runs are finished." in text
    assert "hopeless kd seed 0 failed: distill: these loss terms" in text
    assert "semckd is left out of hopeless: params.yaml: distill.train: semckd compares the images of a batch" in text
    assert "| vanilla | **" in text


def test_a_stage_that_the_system_ended_is_told_by_its_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\necho 'epoch 3/8  lr 0.05' >&2\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    with pytest.raises(PupilError, match=r"prepare was ended by signal 9 \(the system .*: epoch 3/8  lr 0\.05$"):
        _table_run.prepare({}, tmp_path / "data")


def test_a_student_that_was_cut_off_while_evaluated_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def stage(name: str, **arguments: Any) -> None:
        begun.append(name)
        if name == "distill":
            (arguments["out"] / "history.json").write_text("{}")
        elif begun.count(name) == 1:
            raise PupilError("cut off")

    monkeypatch.setattr(_table_run, "_stage", stage)
    work = ({"student": {}}, "kd", 0, tmp_path / "data", tmp_path / "teacher", tmp_path / "out")
    with pytest.raises(PupilError, match="cut off"):
        _table_run.train_student(*work)
    _table_run.train_student(*work)
    assert begun == ["distill", "evaluate", "evaluate"]


def test_a_table_that_is_asked_to_stop_lets_its_runs_end_in_order(project: Path, table: Path, tmp_path: Path) -> None:
    environment = toy.environment() | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command("vanilla", protocol="long"),
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as run:
        assert run.stdout is not None
        next(line for line in run.stdout if "epoch 2/10000" in line)
        (lock,) = tmp_path.glob("pupil-*/*/.resume.lock")
        run.send_signal(signal.SIGTERM)
        said = run.stdout.read()
    assert run.returncode == 128 + signal.SIGTERM, said
    assert "stopped by SIGTERM, with 1 runs begun or waiting. The same command goes on." in said
    # Ray ends what waits for the stage, and that lets the stage end: one that is killed leaves its lock.
    until(lambda: not lock.exists())
