"""Reading a teacher cache: a method gets what was kept of the views in a batch, and the teacher does not run."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.arrays import RowReader, check_fit
from pipeline.data.feed import moved, stays_on
from pipeline.distillation.base import Method, find
from pipeline.distillation.batch import Batch
from pipeline.settings.params import Params, method_config
from pipeline.system.errors import DataError, ParamsError
from pipeline.teaching import card as cards
from pipeline.teaching.card import Card, Facts
from pipeline.teaching.kept import Layout, restore


class Recall:
    """The rows of some names of a cache, for batches on one device; all of them move to an accelerator once where they
    take at most a quarter of its memory.

    Args:
        folder: of the cache.
        card: its card.
        names: what is to be read.

    Raises DataError for a file that is missing, torn or not as the card says.
    """

    def __init__(self, folder: Path, card: Card, names: Iterable[str]) -> None:
        self.facts = card.facts
        self.layouts = {name: card.layouts[name] for name in names}
        self._mapped = {name: _mapped(folder, name, layout, card) for name, layout in self.layouts.items()}
        self._read = {
            name: RowReader(array.reshape(-1, array.shape[2]), cards.REMAKE) for name, array in self._mapped.items()
        }
        self._resident: dict[str, Tensor] | None = None

    def __call__(self, batch: Batch) -> Any:
        """What stands for the teacher's features of the batch; see `kept.restore`."""
        view = batch.epoch % self.facts.num_views
        return restore(
            {name: (self._rows(name, view, batch.positions), layout) for name, layout in self.layouts.items()}
        )

    def _rows(self, name: str, view: int, positions: Tensor) -> Tensor:
        """(B, W) of the images at `positions` (B,)."""
        if self._resident is None:
            self._resident = self._moved(positions.device)
        if self._resident:
            rows = self._resident[name][view][positions]
        else:
            gathered = self._read[name](positions.cpu().numpy() + view * self.facts.num_images)
            rows = torch.from_numpy(gathered).to(positions.device, non_blocking=True)
        return rows.view(torch.bfloat16) if self.layouts[name].dtype == "bfloat16" else rows

    def _moved(self, device: torch.device) -> dict[str, Tensor]:
        if not stays_on(device, sum(array.nbytes for array in self._mapped.values())):
            return {}
        views, images = self.facts.num_views, self.facts.num_images
        whole = {name: moved(read, views * images, device) for name, read in self._read.items()}
        return {name: rows.view(views, images, -1) for name, rows in whole.items()}


def attach(method: Method, folder: Path, expected: Facts) -> None:
    """Let the cache in `folder` answer in the teacher's place, where the method reads no more than is kept there.

    Where it reads more the teacher runs as ever, which is said. Raises DataError for a cache of other facts or a torn
    one, ParamsError for a teacher that normalises by the batch and for a method of two views.
    """
    if not method.needs_teacher:
        return
    name = method.name
    _check_can_be_kept(name, method, method.config)
    if method.reads is None:
        print(
            f"{name} reads whole maps of the teacher, which no cache keeps, so the teacher runs in every step.",
            file=sys.stderr,
        )
        return
    card = cards.load(folder, expected)
    missing = [what for what in method.reads if what not in card.layouts]
    if missing:
        raise DataError(f"the teacher cache in {folder} lacks {', '.join(missing)}, which {name} reads. {cards.REMAKE}")
    method.recall = Recall(folder, card, method.reads)


def needed(settings: Params) -> list[str]:
    """What a cache for all methods of params.yaml has to keep, sorted; nothing where no cache is asked for.

    Raises ParamsError for a method whose teacher normalises by the batch, and for one of two views.
    """
    names: set[str] = set()
    if settings.teach.cache:
        for name in settings.distill.methods:
            method = find(name).Method
            if method.needs_teacher:
                _check_can_be_kept(name, method, method_config(settings, name))
                names |= set(method.reads or ())
    return sorted(names)


def _check_can_be_kept(name: str, method: Method | type[Method], config: Any) -> None:
    if method.views == 2:
        raise ParamsError(
            f"teach.cache is true, but {name} learns from two views of each image, and a cache keeps what the teacher "
            f"says of one. Set teach.cache to false, or remove {name} from distill.methods."
        )
    if config.teacher_bn == "batch":
        raise ParamsError(
            f"teach.cache is true, and distill.methods.{name}.teacher_bn is batch: what the teacher says of an image "
            "then depends on the others in its batch, so that it cannot be kept. Set teacher_bn to eval, or "
            "teach.cache to false."
        )


def _mapped(folder: Path, name: str, layout: Layout, card: Card) -> NDArray[Any]:
    path = folder / f"{name}.npy"
    shape = (card.facts.num_views, card.facts.num_images, layout.width)
    dtype = np.dtype(np.int16 if layout.dtype == "bfloat16" else np.float32)
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} of the teacher cache is missing or incomplete: {error}. {cards.REMAKE}") from error
    check_fit(path, array, shape, dtype, cards.REMAKE)
    return array
