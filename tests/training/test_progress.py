"""What a person sees of a training while it runs."""

import pytest

from pipeline.training import progress


def test_time_left_is_by_the_steps_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 5.0, 15.0, 25.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(now))
    # Three epochs of 100 steps, of which a process before this one did the first 50.
    clock = progress.Clock(250)
    assert clock.left(200) == pytest.approx(20)
    assert clock.left(100) == pytest.approx(10)
    assert clock.left(0) == 0


def test_time_left_is_known_where_the_process_before_did_the_last_step_of_an_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = iter([0.0, 0.5])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(now))
    # Only the validation was left of the first of two epochs, so the guess is a bad one, but no error.
    assert progress.Clock(100).left(100) == pytest.approx(50)


def test_an_epoch_is_said_in_a_line() -> None:
    record = {
        "epoch": 3,
        "lr": 0.05,
        "train": {"loss": 1.5, "top1": 60.123, "ce": 1.0, "kl": 0.5},
        "val": {"top1": 58.5},
        "images_per_s": 1234.5,
        "precision": "bf16",
    }
    assert progress.epoch_line(record, 240, 125.0, val_is_seen=True) == (
        "epoch 3/240  lr 0.05  loss 1.5 (ce 1 + kl 0.5)  top-1 train 60.12 val (images seen in training) 58.50  "
        "1,234 images/s in bf16  2:05 left"
    )
