"""The table on a Ray cluster of two nodes, one of which is lost on the way."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from pipeline import cluster
from tests import toy
from tests.test_table import PAIR, PROTOCOL

pytestmark = pytest.mark.slow
METHODS = "vanilla,kd,at"


def command(out: str) -> list[str]:
    options = {"pairs": "tiny", "methods": METHODS, "protocol": "tiny", "out": out, "cpus": 2}
    return ["python", "-u", "-m", "stages.table", *(str(part) for k, v in options.items() for part in (f"--{k}", v))]


def numbers(project: Path, out: str) -> Any:
    """What the table says, but for the machine and the time."""
    return json.loads((project / out / "tiny/results.json").read_text())["pairs"]


def test_a_table_is_complete_and_the_same_though_a_node_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_worker_niceness", toy.environment()["RAY_worker_niceness"])
    project = toy.make(tmp_path)
    for path, text in (("pairs/tiny.yaml", PAIR), ("protocols/tiny.yaml", PROTOCOL)):
        (project / "presets" / path).parent.mkdir(parents=True, exist_ok=True)
        (project / "presets" / path).write_text(text)
    (project / "published.yaml").write_text("{}\n")
    published = ["--published", "published.yaml"]

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        second = nodes.add_node(num_cpus=2)
        environment = toy.environment() | {"RAY_ADDRESS": nodes.address}
        with subprocess.Popen(
            [*command("lossy"), *published], cwd=project, env=environment, stdout=subprocess.PIPE, text=True
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

    toy.run(project, *command("whole"), *published)
    assert numbers(project, "lossy") == numbers(project, "whole")


PROGRAM = """
from pathlib import Path
from pipeline import cluster
from pipeline.errors import ParamsError
with cluster.joined(Path("pipeline")):
    import ray
    print("address", ray.util.get_node_ip_address())
    print("needs", cluster.needs(0.5, None))
    try:
        cluster.needs(100_000, 0)
    except ParamsError as error:
        print(error)
"""


def test_a_ray_of_this_machine_listens_on_loopback_alone_and_knows_what_it_has() -> None:
    environment = {k: v for k, v in toy.environment().items() if k != "RAY_ADDRESS"}
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=toy.ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "address 127.0.0.1" in said
    assert "needs {'num_cpus': 0.5, 'num_gpus': 0.0}" in said
    assert "each run asks for 100000 CPU and 0 GPU, and the nodes have" in said


def test_the_same_work_is_done_once_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen = []

    def work(name: str) -> None:
        with cluster.own_folder("work") as folder:
            folder.mkdir()
            seen.append(name)
            time.sleep(0.2)
            folder.rmdir()

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The second one would have met the folder of the first.
    assert sorted(seen) == ["a", "b"]
