"""What a person sees of a training while it runs."""

import time

from pipeline.settings.data import validation_label
from pipeline.training.state import Record


class Clock:
    """Time left, from the steps of this process alone: it may begin in the middle of an epoch."""

    def __init__(self, steps_left: int) -> None:
        self.at_first, self.started = steps_left, time.perf_counter()

    def left(self, steps_left: int) -> float:
        """Seconds for the steps that are left now."""
        # None is done yet where the process before was stopped behind the last step of an epoch.
        done = max(1, self.at_first - steps_left)
        return (time.perf_counter() - self.started) / done * steps_left


def epoch_line(record: Record, epochs: int, left: float, val_is_seen: bool) -> str:
    """One epoch in a line: loss and its terms, accuracies, speed, and `left` in seconds.

    `val_is_seen`: the validation images are trained on, and the line says so.
    """
    scores = record["train"]
    val = validation_label("val", val_is_seen)
    terms = " + ".join(f"{name} {value:.3g}" for name, value in scores.items() if name not in ("loss", "top1"))
    return (
        f"epoch {record['epoch']}/{epochs}  lr {record['lr']:.4g}  loss {scores['loss']:.4g} ({terms})  "
        f"top-1 train {scores['top1']:.2f} {val} {record['val']['top1']:.2f}  "
        f"{record['images_per_s']:,.0f} images/s in {record['precision']}  {int(left // 60)}:{int(left % 60):02d} left"
    )
