"""DVCLive as a recorder of epochs, so that `dvc metrics`, `dvc plots` and editors follow a training."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dvclive.live import Live

from pipeline.training.state import Record

Recorder = Callable[[Record], None]


@contextmanager
def recorder(out: Path, val_is_seen: bool = False) -> Iterator[Recorder]:
    """Record epochs under `out` (metrics.json, plots/).

    `val_is_seen`: metrics.json says beside the validation figures that they are of images seen in training.
    """
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
