"""Any image data set that the `datasets` library reads: a folder of Parquet shards or of images, or an id on the Hub.

A folder is read without touching the network and leaves nothing behind. Class names are those of the data set where
its label column has them, else its values, sorted.
"""

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.preparation import decode
from pipeline.preparation.divide import hold_out, listed
from pipeline.preparation.source import Source
from pipeline.settings.data import Data
from pipeline.settings.section import Section
from pipeline.system.errors import DataError, ParamsError
from pipeline.system.registry import nearest

Name = Annotated[str, Field(min_length=1)]
KEY = "data.sources.huggingface"


class Config(Section):
    """Which columns and splits of the data set to take."""

    image_column: Name = "image"
    """The column of encoded images, or of paths to them."""
    label_column: Name = "label"
    """The column of class names, or of their numbers."""
    train_split: Name = "train"
    """What the data set calls its train split."""
    test_split: Name | None = "test"
    """What the data set calls its test split. null: a test split is drawn from train, by test_fraction."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of each class that is drawn for test, by data.seed, if test_split is null."""
    val_split: Name | None = None
    """What the data set calls its validation split. null: one is drawn from train, by data.val_fraction."""
    subset: Name | None = None
    """Which subset to take, if the data set has several. `datasets` calls them configurations."""
    revision: Name | None = None
    """Branch, tag or commit on the Hub, so that the data cannot change unnoticed. It is not used for folders."""

    @model_validator(mode="after")
    def _splits_differ(self) -> "Config":
        names = [name for name in (self.train_split, self.val_split, self.test_split) if name]
        if len(set(names)) < len(names):
            raise ValueError(
                "train_split, val_split and test_split must differ, so that no test image is used for training"
            )
        return self


@dataclass(frozen=True)
class Rows:
    """One split of the data set."""

    split: str
    images: Any
    """pyarrow.ChunkedArray of {bytes, path}; memory-mapped, and safe to read from many threads."""
    labels: NDArray[np.int64]
    """(N,) class numbers."""
    rows: NDArray[np.int64]
    """(N,) which of `images` each record is."""

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels (h, w, 3) of one row, as `decode.rgb` makes them. Raises BadImageError naming the row."""
        cell = self._cell(index).as_py()
        if cell is None:
            raise decode.BadImageError(self.name(index), "missing", "the image is null")
        if cell["bytes"] is not None:
            return decode.rgb(io.BytesIO(cell["bytes"]), self._name(index, cell))
        return decode.rgb(Path(cell["path"] or ""), self._name(index, cell))

    def path(self, index: int) -> Path | None:
        """The file that a row of a folder of images names; None for images that lie in a shard."""
        cell = self._cell(index)
        is_file = cell.is_valid and not cell["bytes"].is_valid and cell["path"].is_valid
        return Path(cell["path"].as_py()) if is_file else None

    def name(self, index: int) -> str:
        """Split and row, and the file name where the data set keeps it."""
        return self._name(index, self._cell(index).as_py() or {})

    def chosen(self, order: NDArray[np.int64]) -> "Rows":
        """The records with these numbers, in this order."""
        return Rows(self.split, self.images, self.labels[order], self.rows[order])

    def _cell(self, index: int) -> Any:
        return self.images[int(self.rows[index])]

    def _name(self, index: int, cell: dict[str, Any]) -> str:
        return f"{self.split} row {self.rows[index]}" + (f" ({cell['path']})" if cell.get("path") else "")


def open_source(config: Config, data: Data) -> Source:
    """Find splits, columns and labels; no image is decoded yet.

    Raises ParamsError if data.path is not given, DataError if there is no such data set, split or column, if a label
    is missing, or if the label column holds neither classes, integers nor strings.
    """
    if data.path is None:
        raise ParamsError(
            "params.yaml: data.path is null, but the source huggingface needs a folder or a Hub id there."
        )
    folder = Path(data.path)
    loaded = _load_folder(folder, config) if folder.exists() else _fetch(data.path, config)

    wanted = {"train": config.train_split, "val": config.val_split, "test": config.test_split}
    chosen = {split: _named(loaded, name, f"{KEY}.{split}_split", "splits") for split, name in wanted.items() if name}
    names, labels = _labels(chosen, config.label_column)
    splits: dict[str, Rows] = {}
    for split, dataset in chosen.items():
        images = _image_column(dataset, config.image_column)
        splits[split] = Rows(split, images, labels[split], np.arange(len(labels[split])))
    if config.test_split is None:
        kept, drawn = hold_out(labels["train"], config.test_fraction, data.seed)
        splits |= {"train": splits["train"].chosen(kept), "test": splits["train"].chosen(drawn)}
    return Source(names, splits, chosen["train"].info.license or None)


def _load_folder(folder: Path, config: Config) -> Any:
    """The splits of a local folder, as a datasets.DatasetDict."""
    from datasets.load import load_dataset  # seconds to import

    if not folder.is_dir():
        raise DataError(f"data.path {folder} is a file; expected the folder that holds the data set.")
    # The library converts shards to Arrow files in its cache, and maps those. Mapped, they outlive their names, so the
    # cache can go at once: nothing stays in the source's folder, in the home folder, or in /tmp after a kill.
    with tempfile.TemporaryDirectory(prefix="pupil-") as cache:
        try:
            return load_dataset(str(folder.resolve()), config.subset, cache_dir=cache)
        except Exception as error:  # its own errors have no common base, and readers of bad files raise any
            broken = _broken_shards(folder)
            if broken:
                raise DataError(
                    f"{len(broken)} Parquet files of data.path {folder} cannot be read: {listed(broken, '; ')}. Fetch "
                    "or write them again."
                ) from error
            raise DataError(
                f"data.path {folder} is not a folder that `datasets` can read: {_why(error)}. Expected Parquet files "
                "named by split, such as train-00000-of-00001.parquet, or a folder of images for each split and class."
            ) from error


def _broken_shards(folder: Path) -> list[str]:
    """Parquet files that cannot be read to their end, each with the reason; `datasets` does not say which it is."""
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]  # ships no types

    broken = []
    for shard in sorted(folder.rglob("*.parquet")):
        try:
            for _ in parquet.ParquetFile(shard).iter_batches():
                pass
        except (ArrowException, OSError) as error:
            broken.append(f"{shard.relative_to(folder)} ({_why(error)})")
    return broken


def _fetch(hub_id: str, config: Config) -> Any:
    """The splits of a data set on the Hub, as a datasets.DatasetDict; what was fetched before comes from its cache."""
    if hub_id.startswith((".", "/", "~")) or hub_id.count("/") > 1:
        raise DataError(f"data.path {hub_id} does not exist; expected a folder, or an id on the Hub such as org/name.")
    from datasets.load import load_dataset

    try:
        return load_dataset(hub_id, config.subset, revision=config.revision)
    except Exception as error:  # its own errors have no common base, and those of the network even less
        raise DataError(
            f"There is no folder {hub_id}, and as a data set id it could not be fetched from the Hub: {_why(error)}. "
            "If this machine has no access to the network, download the data set on one that has, and set data.path "
            "to its folder."
        ) from error


def _labels(chosen: dict[str, Any], column: str) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]]]:
    """Class names, and the class numbers (N,) of each split."""
    import datasets

    raw = {}
    for split, dataset in chosen.items():
        feature = _named(dataset.features, column, f"{KEY}.label_column", "columns")
        kind = getattr(feature, "dtype", "nothing of one type")
        known = isinstance(feature, (datasets.ClassLabel, datasets.Value)) and ("int" in kind or "string" in kind)
        if not known:
            raise DataError(f"Column '{column}' holds {kind}; expected class labels, integers or strings.")
        cells = dataset.data.column(column)
        if cells.null_count:
            raise DataError(f"{cells.null_count} of {len(cells)} rows of {split} have no label in column '{column}'.")
        raw[split] = cells.to_numpy()
        if "int" in kind and len(cells) and raw[split].min() < 0:
            raise DataError(
                f"Column '{column}' of {split} holds {raw[split].min()}, which marks a row without a label; expected "
                f"a labelled split. Choose another with {KEY}.{split}_split."
            )
    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names), {split: values.astype(np.int64) for split, values in raw.items()}
    # Over all splits, so that a class of test that train lacks is still there to be named when prepare checks.
    values = np.unique(np.concatenate(list(raw.values())))
    return tuple(str(value) for value in values), {split: np.searchsorted(values, raw[split]) for split in raw}


def _image_column(dataset: Any, column: str) -> Any:
    """The column as Arrow cells of {bytes, path}."""
    import datasets
    import pyarrow

    feature = _named(dataset.features, column, f"{KEY}.image_column", "columns")
    kind = feature.pa_type if isinstance(feature, datasets.Image) else dataset.data.column(column).type
    is_cell = pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not (is_cell or pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)):
        raise DataError(
            f"Column '{column}' holds {kind}; expected images. Choose another column with {KEY}.image_column."
        )
    cells = dataset.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    return cells.data.column(column)


def _named(known: Any, name: str, key: str, what: str) -> Any:
    """known[name], or a DataError listing what there is."""
    if name not in known:
        raise DataError(
            f"{key} is '{name}'{nearest(name, list(known))}; the data set has these {what}: {', '.join(known)}."
        )
    return known[name]


def _why(error: Exception) -> str:
    """The first line of what went wrong, from the innermost cause: the outer ones only say that something did."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # Where a subset has to be named, the names stand in the second line.
    unnamed = lines[0].startswith("Config name")
    return f"{' '.join(lines[:2])}; choose with {KEY}.subset" if unnamed else lines[0].rstrip(".")
