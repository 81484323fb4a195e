"""What train_teacher and distill have in common: feeds in, a trained network and its history out."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

from pipeline.data import card as cards
from pipeline.data import unlabelled
from pipeline.data.feed import training_feeds
from pipeline.devices import distributed
from pipeline.devices.memory import keep_freed_memory
from pipeline.distillation.base import Method
from pipeline.models import checkpoint
from pipeline.models.base import Classifier
from pipeline.settings.data import Augment, Normalization
from pipeline.settings.training import Train
from pipeline.system.files import write_json
from pipeline.system.run_key import run_key
from pipeline.training import engine
from pipeline.training.resume import Resume
from pipeline.training.state import Record
from stages._live import recorder


def train(
    objective: Method,
    settings: Train,
    augment: Augment,
    method: str | None,
    seed: int,
    data: Path,
    facts: dict[str, Any],
    resume: Path,
    out: Path,
    num_views: int | None = None,
    normalization: Normalization | None = None,
    image_px: int | None = None,
) -> None:
    """Fit `objective` and write model.safetensors, history.json and DVCLive's files to `out`.

    `facts` is all that decides the result besides data and code: it keys the resume state and the header. `num_views`
    is as in `Feed`. `normalization` is that of the images; None: the data card's. `image_px` is what the network sees
    of each view; None: all of the data card's.
    """
    keep_freed_memory()
    card = cards.load(data)
    facts = facts | unlabelled.identity(data, card, settings.unlabelled_share)
    seen_by = normalization or card.normalization
    of_data = {"data": card.sha256, "image_px": card.image_px, "normalization": seen_by.model_dump()}
    state = Resume(resume, run_key({**facts, "seed": seed, **of_data}, "torch"))
    with distributed.joined() as device:
        feeds = training_feeds(data, card, seen_by, device, num_views, settings.unlabelled_share > 0, image_px)
        with (
            recorder(out, card.train_includes_val)
            if distributed.rank() == 0
            else nullcontext(_record_nothing) as record
        ):
            result = engine.fit(objective, *feeds, settings, augment, seed, state, record, card.train_includes_val)
        if distributed.rank() != 0:
            return
    model = cast(Classifier, objective.deployed())
    header = checkpoint.make_header(model, card, seen_by, method, seed, facts, image_px)
    checkpoint.save(model, header, out / "model.safetensors")
    history = {**result.summary(), "val_seen_in_training": card.train_includes_val, "epochs": result.history}
    write_json(out / "history.json", history)
    # Only now: a kill before this line resumes from the last epoch, and a finished run leaves nothing behind.
    state.clear()


def _record_nothing(record: Record) -> None:
    """What every process does with its epochs but the first one."""


def decisive(settings: Train) -> dict[str, Any]:
    """Settings of a training without those that leave its result as it is."""
    return settings.model_dump(exclude={"processes"})
