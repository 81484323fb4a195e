"""The curve on the test split is of the student after each epoch, and of one training."""

import json
from pathlib import Path

import pytest

from benchmarks import best_epoch
from pipeline.data.feed import Feed
from pipeline.models import checkpoint
from pipeline.settings.training import Train
from pipeline.system.errors import CheckpointError
from pipeline.training import engine
from pipeline.training.resume import Resume
from pipeline.training.state import Record
from tests import tiny
from tests.training.test_engine import AUGMENT, SETTINGS


def trained(folder: Path, test: Feed, settings: Train, key: str = "k") -> list[Record]:
    """A training whose state is followed after each epoch, before it has gone on."""
    student = tiny.network(seed=5)

    def on_epoch(record: Record) -> None:
        best_epoch.follow(folder / "state", student, test, folder / "curve.json", {"command": "c"})

    state = Resume(folder / "state", key)
    return engine.fit(tiny.method("afd"), tiny.feed(), test, settings, AUGMENT, 0, state, on_epoch).history


@pytest.mark.parametrize("ema_decay", [None, 0.7])
def test_each_epoch_has_the_figures_of_training_on_the_same_images(tmp_path: Path, ema_decay: float | None) -> None:
    test = tiny.feed(32, seed=1)
    history = trained(tmp_path, test, SETTINGS.model_copy(update={"ema_decay": ema_decay}))
    curve = json.loads((tmp_path / "curve.json").read_text())
    assert curve["epochs"] == [{"epoch": record["epoch"], **record["val"]} for record in history]
    assert curve["best_on_test"]["top1"] == max(record["val"]["top1"] for record in history)


def test_a_state_that_was_seen_already_or_lies_within_an_epoch_adds_nothing(tmp_path: Path) -> None:
    test, state, out = tiny.feed(32, seed=1), tmp_path / "state", tmp_path / "curve.json"
    trained(tmp_path, test, SETTINGS)
    before = out.read_bytes()
    best_epoch.follow(state, tiny.network(), test, out, {})
    tensors, facts = checkpoint.read_tensors(state)
    assert facts is not None
    facts["history"].append(facts["history"][-1])
    facts["tally"]["steps"] = 1
    checkpoint.write_tensors(state, tensors, facts)
    best_epoch.follow(state, tiny.network(), test, out, {})
    assert out.read_bytes() == before


def test_another_training_or_another_file_is_refused_and_the_curve_stays(tmp_path: Path) -> None:
    test, state, out = tiny.feed(32, seed=1), tmp_path / "state", tmp_path / "curve.json"
    trained(tmp_path, test, SETTINGS)
    before = out.read_bytes()
    state.unlink()
    with pytest.raises(CheckpointError, match="curve of another training"):
        trained(tmp_path, test, SETTINGS, key="other")
    checkpoint.write_tensors(state, {}, {"seed": 0})
    with pytest.raises(CheckpointError, match="not the state of a training"):
        best_epoch.follow(state, tiny.network(), test, out, {})
    assert out.read_bytes() == before
