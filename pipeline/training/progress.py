"""What a person sees of a training while it runs."""

import time

from pipeline.settings.data import validation_label
from pipeline.training.state import Record


class Clock:
    """Time left, from the epochs of this process alone."""

    def __init__(self, epochs: int) -> None:
        self.epochs, self.done, self.started = epochs, 0, time.perf_counter()

    def left(self) -> float:
        """Seconds, after one more epoch."""
        self.done += 1
        return (time.perf_counter() - self.started) / self.done * (self.epochs - self.done)


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
        f"{record['images_per_s']:,.0f} images/s  {int(left // 60)}:{int(left % 60):02d} left"
    )
