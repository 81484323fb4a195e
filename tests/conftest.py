"""Settings of the whole suite."""

import os
import signal

import pytest
import torch

from serve import machine

LONGEST = (
    "docs/test_followed",
    "stages/test_chain",
    "sweep/test_table",
    "load/test_run",
    "stages/test_processes",
    "devices/test_distributed",
    "models/test_timm",
    "distillation/test_methods",
)
"""Files that take longest, longest first: what is left at the end is short, and no core waits long for another."""


OTHERS = ("GIT_", "HF_HUB_", "PROMETHEUS_", "PUPIL_", "RAY_", "RANK", "LOCAL_RANK", "WORLD_SIZE")
"""How names of environment variables begin that decide what Pupil does, and may be set where tests are run."""
WORKER_BYTES = 3 * 2**30
"""Of memory for each worker of pytest-xdist; those with the most tests come to 2.6 GiB."""


def pytest_configure() -> None:
    """Let tests end alike whatever a person or a CI has set, in every worker and before anything else is imported."""
    for name in list(os.environ):
        if name.startswith(OTHERS):
            del os.environ[name]
    os.environ |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "no_proxy": "127.0.0.1,localhost,::1"}


@pytest.fixture(autouse=True, scope="session")
def _one_thread_per_worker() -> None:
    # Toy tensors are slower on many threads, and pytest-xdist already fills the cores.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_is_heard() -> None:
    # A shell has what it starts in the background ignore Ctrl-C, and so would every process that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
    """With `-n auto`: one worker more than cores, because tests wait for servers, nodes and processes that start."""
    return max(1, min(machine.num_cores() + 1, machine.memory_bytes() // WORKER_BYTES))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest. One worker has all tests of a file, which share its fixtures (pyproject.toml)."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(f"{item.path.parent.name}/{item.path.stem}", len(ranks)))
