"""Making a teacher cache: one pass over the training set for each view, resumable, there whole or not at all."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from pipeline.data.card import DataCard
from pipeline.data.feed import Feed
from pipeline.devices.precision import autocast
from pipeline.distillation.base import Config, Method, Teacher
from pipeline.system import interruption
from pipeline.system.errors import StoppedError
from pipeline.system.files import cannot_write, write_json
from pipeline.system.scratch import replacing_folder
from pipeline.teaching import views
from pipeline.teaching.card import CARD, Card, Facts
from pipeline.teaching.kept import take
from pipeline.teaching.rows import Rows

_BATCH = 256


def build(
    teacher: Teacher, data: DataCard, feed: Feed, facts: Facts, names: Sequence[str], partial: Path, out: Path
) -> None:
    """Leave a cache of `names` (see `kept`) in the folder `out`; `feed` is of the training set.

    What is done lies in the folder `partial` until all is: a build that was killed goes on from its last whole view,
    one that was asked to stop (StoppedError) from its last batch. Raises PupilError where the disk has no room.
    """
    try:
        rows = Rows(partial, facts, names)
        try:
            _pass_over_views(teacher, data, feed, rows, names)
        finally:
            rows.close()
    except OSError as error:
        raise cannot_write(str(partial), partial / CARD, error) from error
    with replacing_folder(out) as scratch:
        rows.hand_over(scratch)
        write_json(scratch / CARD, Card(facts=facts, layouts=rows.layouts).model_dump(mode="json"))
        views.write(facts.num_views, scratch)
    rows.clear()


def _pass_over_views(teacher: Teacher, data: DataCard, feed: Feed, rows: Rows, names: Sequence[str]) -> None:
    facts, earlier, started = rows.facts, rows.done, time.monotonic()
    total = facts.num_views * len(feed)
    # As a method asks its teacher: folded, in its layout, with images as it was trained on. Nobody learns here.
    ask = Method(Config(), teacher.model, teacher, data)
    ask.place_on(feed.device)
    with (
        interruption.listen() as stop,
        tqdm(total=total, initial=earlier, desc="teach", unit=" images", leave=False, disable=None) as bar,
    ):
        for view in range(earlier // len(feed), facts.num_views):
            for images in feed.view_batches(facts.augment, view, _BATCH, rows.done % len(feed)):
                with autocast(feed.device, facts.precision):
                    features = ask.teach(images)
                # Outside, as loss terms are: autocast would compute norms in float32.
                rows.add({name: take(features, name) for name in names})
                bar.update(len(images))
                if stop.received is not None:
                    rows.settle()
                    raise StoppedError(
                        f"stopped by {stop.received.name} in view {view + 1} of {facts.num_views}. The same command "
                        f"goes on from there, by {rows.folder}.",
                        stop.received,
                    )
            rows.settle()
            speed = (rows.done - earlier) / (time.monotonic() - started)
            minutes, seconds = divmod(int((total - rows.done) / speed), 60)
            done = f"view {view + 1}/{facts.num_views} kept  {speed:,.0f} images/s  {minutes}:{seconds:02d} left"
            print(done, file=sys.stderr, flush=True)
