"""Ray on this machine alone, and work that is done once at a time. What a lost node does is in test_table.py."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.sweep import cluster
from tests import toy

pytestmark = pytest.mark.slow

PROGRAM = """
from pathlib import Path
from pipeline.sweep import cluster
from pipeline.system.errors import ParamsError

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
    assert "each run asks for 100000 CPU and 0 GPU, but the nodes have" in said


def test_the_same_work_is_done_once_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen = []

    def work(name: str) -> None:
        with cluster.own_folders("work") as (taken, made):
            taken.mkdir()
            made.mkdir()
            seen.append(name)
            time.sleep(0.2)
            made.rmdir()

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The second one would have met the folders of the first.
    assert sorted(seen) == ["a", "b"]
    assert list(tmp_path.rglob("pupil-*/*")) == []
