"""The card of a prepared data set: all that later stages need to know of it, and the checksums that pin it."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.settings.data import Normalization
from pipeline.system.errors import DataError


class DataCard(BaseModel):
    """`card.json` of a prepared data set. Holds no time and no path: the same images give the same bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    labels: tuple[str, ...]
    """Class names in the order of the class numbers."""
    image_px: int
    """Height and width of the images that networks see."""
    storage_px: int
    """Height and width of the images on disk, at least image_px."""
    counts: dict[str, int]
    """Images by split: train, val, test."""
    train_includes_val: bool = False
    """Whether the images of val are among those of train, behind its own; each is then counted in both."""
    class_counts: dict[str, tuple[int, ...]]
    """Images by split and class."""
    normalization: Normalization
    """What images are normalised by: the statistics of the train split, unless params.yaml sets others."""
    sha256: dict[str, str]
    """Of each array file, by its path below the card's folder, such as train/images.npy."""
    licence: str | None

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.labels)


def load(folder: Path) -> DataCard:
    """Read `card.json`. Raises DataError if the folder holds no finished data set."""
    path = folder / "card.json"
    try:
        return DataCard.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{folder} holds no prepared data: {path} is missing. Run `dvc repro prepare`.") from error
    except ValidationError as error:
        raise DataError(f"{path} is not a card of this version: {error}. Run `dvc repro prepare`.") from error
