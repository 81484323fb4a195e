"""Images without labels, prepared beside the splits: `unlabelled/images.npy`, and a card of their own.

They have their own card so that whatever never sees them, such as the teacher, stays as it is when they change.
"""

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.data.arrays import REMAKE, Split, mapped
from pipeline.data.card import DataCard
from pipeline.system.errors import DataError

UNLABELLED = "unlabelled"
"""What they are called where splits have names, and their folder."""
NO_LABEL = -1
"""Stands where an image has no class number."""


class UnlabelledCard(BaseModel):
    """`unlabelled/card.json`. It is there without such images too, so that a stage can depend on it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int
    """N, of the images; 0 without data.unlabelled, and then there is no array."""
    sha256: str | None
    """Of images.npy."""


def load(folder: Path, card: DataCard) -> tuple[Split, UnlabelledCard]:
    """Map the images without labels of the prepared data set in `folder`; each label is NO_LABEL.

    Raises DataError where none are prepared, or the file is not what its card says.
    """
    path = folder / UNLABELLED / "card.json"
    try:
        own = UnlabelledCard.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: {folder} was prepared by an earlier version. {REMAKE}") from error
    except ValidationError as error:
        raise DataError(f"{path} is not a card of this version: {error}. {REMAKE}") from error
    if not own.count:
        raise DataError(
            f"{folder} was prepared without images that have no labels. Set data.unlabelled to a folder of such images "
            "and run `dvc repro prepare`, or set distill.train.unlabelled_share to 0."
        )
    shape = (own.count, card.storage_px, card.storage_px, 3)
    images = mapped(folder / UNLABELLED / "images.npy", shape, np.uint8)
    return Split(images, np.full(own.count, NO_LABEL, np.int64), card.image_px), own


def identity(folder: Path, card: DataCard, share: float) -> dict[str, str | None]:
    """What tells the images without labels that a training sees from others; nothing where their `share` is 0."""
    return {"unlabelled_sha256": load(folder, card)[1].sha256} if share else {}
