"""What Linux alone has is taken away: the other way works too."""

import os
import resource
import signal
import sys
from pathlib import Path

import pytest

from pipeline.devices.memory import keep_freed_memory
from pipeline.system import interruption
from serve import machine
from serve.http import server
from serve.http.limits import Limits
from serve.timing import energy


@pytest.fixture(autouse=True)
def macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")


def test_cores_are_counted_without_an_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert machine.num_cores() == 7


def test_a_child_whose_parent_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    parents, killed = iter([5, 5, 1]), []
    monkeypatch.setattr(interruption, "LOOK_S", 0)
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
    interruption._watch(5, signal.SIGTERM)
    assert killed == [(os.getpid(), signal.SIGTERM)]


def test_memory_is_left_to_an_allocator_that_cannot_be_told() -> None:
    assert keep_freed_memory() is False


def test_energy_is_not_told_without_counters(tmp_path: Path) -> None:
    assert energy.meter("cpu", tmp_path) is None


def test_a_bound_on_open_files_that_cannot_be_raised_lowers_the_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(which: int, limits: tuple[int, int]) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert server._within_open_files(Limits(max_connections=1000)).max_connections == 128
