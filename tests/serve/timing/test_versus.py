"""Files in turns, under a clock that stands still but for the calls."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from serve.timing import versus
from tests import tiny_onnx
from tests.serve.timing.test_latency import Clock

FILES = {name: Path(f"{name}.onnx") for name in ("teacher", "student")}
MS = {"teacher": 9.0, "student": 3.0}
PX = {"teacher": 16, "student": 8}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Calls take MS for each image."""
    made = Clock()

    class Classifier:
        def __init__(self, path: Path, threads: int, device: str) -> None:
            self._ms, self.card = MS[path.stem], SimpleNamespace(image_px=PX[path.stem])
            assert (threads, device) == (2, "cpu")

        def __call__(self, pixels: np.ndarray) -> None:
            assert pixels.shape[1:] == (self.card.image_px, self.card.image_px, 3)
            made.work(self._ms * len(pixels))()

    monkeypatch.setattr(versus, "OnnxClassifier", Classifier)
    return made


def test_every_file_is_compared_with_the_first(clock: Callable[[], int]) -> None:
    records = versus.beside(FILES, 2, (1, 16), clock)
    assert [(one["batch_size"], one["n"], one["p50_ms"]) for one in records["student"]] == [
        (1, 60, 3.0),
        (16, 10, 48.0),
    ]
    same = {"median": 3.0, "low": 3.0, "high": 3.0}
    assert [one["times_as_fast"] for one in records["student"]] == [same, same]
    assert {one["times_as_fast"]["median"] for one in records["teacher"]} == {1.0}
    assert versus.at(FILES, 2, 16, clock) == {name: several[1] for name, several in records.items()}


def test_real_files_have_a_ratio(tmp_path: Path) -> None:
    paths = [tiny_onnx.write(tmp_path / f"{seed}.onnx", seed=seed) for seed in (0, 1)]
    assert versus.speedup(*paths, threads=1) > 0
