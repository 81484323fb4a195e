"""Keep what the teacher says of the training images for all students, where params.yaml asks for it."""

import json
from pathlib import Path

from pipeline.settings import params as parameters
from pipeline.teaching import views
from stages import _run


def teach(params: Path, needed: Path, teacher: Path, data: Path, out: Path, resume: Path) -> None:
    """Leave in the folder `out` how many views an image has, and a cache of what the file `needed` lists, if anything.

    `resume` is a folder where a build that was interrupted goes on from.
    """
    settings = parameters.load(params)
    names = json.loads(needed.read_text(encoding="utf-8"))["needed"]
    if names:
        _keep(settings, names, teacher, data, out, resume)
    else:
        views.write_alone(settings.teach.views, out)


def _keep(settings: parameters.Params, names: list[str], teacher: Path, data: Path, out: Path, resume: Path) -> None:
    # torch takes seconds to import, and without a cache this stage has no use for it.
    from pipeline.data import card as cards
    from pipeline.data.arrays import Split
    from pipeline.data.feed import Feed
    from pipeline.devices.memory import keep_freed_memory
    from pipeline.devices.precision import best_device
    from pipeline.distillation.base import Teacher
    from pipeline.models import checkpoint
    from pipeline.teaching.build import build
    from pipeline.teaching.card import facts_of

    keep_freed_memory()
    card, device = cards.load(data), best_device()
    network, header = checkpoint.load(teacher)
    feed = Feed(Split.load(data, "train", card), card.normalization, device)
    facts = facts_of(settings, teacher, card, device)
    build(Teacher(network, header.normalization), card, feed, facts, names, resume, out)


if __name__ == "__main__":
    _run.main(teach)
