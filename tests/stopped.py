"""A training that is asked to stop within a step, in this process."""

import os
import signal
from typing import Any

import pytest

from pipeline.training import engine


def at_step(number: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Send SIGTERM while that training step, counted from 1, is under way; a list that grows with every step."""
    step, seen = engine.train_step, list[int]()

    def stopped(*arguments: Any) -> Any:
        seen.append(len(seen))
        if len(seen) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    monkeypatch.setattr(engine, "train_step", stopped)
    return seen
