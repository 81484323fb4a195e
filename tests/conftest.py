"""Settings of the whole suite."""

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
    return machine.num_cores() + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest. One worker has all tests of a file, which share its fixtures (pyproject.toml)."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(f"{item.path.parent.name}/{item.path.stem}", len(ranks)))
