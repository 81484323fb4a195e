"""DVCLive as a recorder of epochs, so that `dvc metrics`, `dvc plots` and editors follow a training."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.training.state import Record

Recorder = Callable[[Record], None]


@contextmanager
def recorder(out: Path, val_is_seen: bool = False) -> Iterator[Recorder]:
    """Record epochs under `out` (metrics.json, plots/); without DVCLive say so and record nothing there.

    `val_is_seen`: metrics.json says beside the validation figures that they are of images seen in training.
    """
    try:
        from dvclive.live import Live
    except ImportError:
        print(
            "dvclive is not installed, so no metrics.json and no plots are written; history.json is written all "
            "the same.",
            file=sys.stderr,
        )
        yield lambda record: None
        return
    # dvcyaml: DVCLive would otherwise write itself into dvc.yaml while dvc is reading it.
    with Live(str(out), dvcyaml=None, save_dvc_exp=False, report=None) as live:

        def record_epoch(record: Record) -> None:
            live.step = record["epoch"]
            for part in ("train", "val"):
                for name, value in record.get(part, {}).items():
                    live.log_metric(f"{part}/{name}", value)
            if val_is_seen:
                live.log_metric("val/images", "seen in training", plot=False)
            live.next_step()

        yield record_epoch
