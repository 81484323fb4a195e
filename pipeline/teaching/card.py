"""What a teacher cache is of: the facts that decide its numbers, and how they lie in its files.

views.json      how many views there are; all that a student depends on, cached or not
answers.json    the `Card`; it is there only where a cache was asked for
NAME.npy        (K, N, W) rows of every view and image, float32, or bf16 as int16
"""

from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.data.card import DataCard
from pipeline.devices.precision import computes_in
from pipeline.settings.data import Augment, Normalization
from pipeline.settings.params import Params
from pipeline.system.errors import DataError
from pipeline.system.files import sha256
from pipeline.teaching.kept import Layout

CARD = "answers.json"
REMAKE = "Run `dvc repro --force --single-item teach`."
"""Forced, because DVC does not see that another machine computes in another precision."""


class Facts(BaseModel):
    """What decides the numbers, beside the code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher_sha256: str
    data_sha256: str
    """Of the training images."""
    num_images: int
    """N."""
    image_px: int
    """Of the images that the networks see, out of those that are stored."""
    num_views: int
    """K."""
    augment: Augment
    normalization: Normalization
    """Of the images that the student sees."""
    precision: Literal["fp32", "bf16"]


class Card(BaseModel):
    """`answers.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    facts: Facts
    layouts: dict[str, Layout]
    """By the names of `kept`."""


def facts_of(settings: Params, teacher: Path, card: DataCard, device: torch.device) -> Facts:
    """The facts of a cache for students of these settings, of the teacher in the file `teacher`."""
    assert settings.teach.views is not None, "a cache is of views that repeat"
    return Facts(
        teacher_sha256=sha256(teacher),
        data_sha256=card.sha256["train/images.npy"],
        num_images=card.counts["train"],
        image_px=card.image_px,
        num_views=settings.teach.views,
        augment=settings.augment,
        normalization=card.normalization,
        precision=computes_in(device, settings.distill.train.precision),
    )


def load(folder: Path, expected: Facts) -> Card:
    """The card of the cache in `folder`. Raises DataError where there is none, or one of other facts."""
    path = folder / CARD
    try:
        card = Card.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{folder} holds no teacher cache: {path} cannot be read ({error.strerror}). {REMAKE}"
        ) from error
    except ValidationError as error:
        raise DataError(f"{path} is not the card of a teacher cache of this version: {error}. {REMAKE}") from error
    came, wanted = card.facts.model_dump(), expected.model_dump()
    other = [f"{key} is {came[key]} there and {wanted[key]} here" for key in wanted if came[key] != wanted[key]]
    if other:
        raise DataError(f"the teacher cache in {folder} belongs to another training: {'; '.join(other)}. {REMAKE}")
    return card
