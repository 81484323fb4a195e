"""Rows of a data set that the `datasets` library has read: the images of a split, and their classes."""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.preparation import class_names, decode
from pipeline.preparation.hub_folder import KEY
from pipeline.preparation.tree import printable
from pipeline.system.errors import DataError
from pipeline.system.registry import nearest


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
    folder: Path | None
    """Where paths of images start; None for the Hub, whose files lie in the library's cache by whole paths."""

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels (h, w, 3) of one row, as `decode.rgb` makes them. Raises BadImageError naming the row."""
        cell = self._cell(index).as_py()
        if cell is None:
            raise decode.BadImageError(self.name(index), "missing", "the image is null")
        if cell["bytes"] is not None:
            return decode.rgb(io.BytesIO(cell["bytes"]), self._name(index, cell))
        path = self.path(index)
        if path is None:
            raise decode.BadImageError(self.name(index), "missing", "the row has neither an image nor a path to one")
        return decode.rgb(path, self._name(index, cell))

    def path(self, index: int) -> Path | None:
        """The file that a row names; None for images that lie in a shard."""
        cell = self._cell(index)
        named = cell["path"].as_py() if cell.is_valid and not cell["bytes"].is_valid else None
        return Path(self.folder or "", named) if named else None

    def name(self, index: int) -> str:
        """Split and row, and the file name where the data set keeps it."""
        return self._name(index, self._cell(index).as_py() or {})

    def chosen(self, order: NDArray[np.int64]) -> "Rows":
        """The records with these numbers, in this order."""
        return Rows(self.split, self.images, self.labels[order], self.rows[order], self.folder)

    def paths(self) -> set[str]:
        """The files that rows name, from the folder on."""
        import pyarrow.compute as compute  # type: ignore[import-untyped]  # ships no types

        if self.folder is None:
            return set()
        named = [
            path
            for chunk in self.images.chunks
            for path in chunk.field("path").filter(compute.is_null(chunk.field("bytes"))).drop_null().to_pylist()
        ]
        return {os.path.relpath(str(self.folder / path), str(self.folder)) for path in named}

    def _cell(self, index: int) -> Any:
        return self.images[int(self.rows[index])]

    def _name(self, index: int, cell: dict[str, Any]) -> str:
        path = cell.get("path")
        # `datasets` makes the paths of some folders absolute; a person knows data.path.
        inside = os.path.relpath(path, self.folder) if path and self.folder and os.path.isabs(path) else path
        return f"{self.split} row {self.rows[index]}" + (f" ({printable(inside)})" if inside else "")


def labels_of(chosen: dict[str, Any], column: str) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]]]:
    """Class names, and the class numbers (N,) of each split."""
    raw, kinds, listed = {}, {}, {}
    for split, dataset in chosen.items():
        feature = look_up(dataset.features, column, f"{KEY}.label_column", "columns")
        kinds[split], listed[split] = _kind(feature, column), getattr(feature, "names", None)
        cells = dataset.data.column(column)
        if cells.null_count:
            raise DataError(f"{cells.null_count} of {len(cells)} rows of {split} have no label in column '{column}'.")
        raw[split] = cells.to_numpy()
        if kinds[split] != "strings" and len(cells) and raw[split].min() < 0:
            raise DataError(
                f"Column '{column}' of {split} holds {raw[split].min()}, which marks a row without a label; expected "
                f"a labelled split. Choose another with {KEY}.{split}_split."
            )
    if len(set(kinds.values())) > 1:
        told = ", ".join(f"{kind} in {split}" for split, kind in kinds.items())
        raise DataError(f"Column '{column}' holds {told}; expected the same in all splits.")
    if all(names is not None for names in listed.values()):
        return _named(raw, listed, column)
    # Over all splits, so that a class of test that train lacks is still there to be named when prepare checks.
    values = np.unique(np.concatenate(list(raw.values())))
    names = tuple(str(value) for value in values)
    class_names.check(names, f"column '{column}'")
    return names, {split: np.searchsorted(values, raw[split]) for split in raw}


def _kind(feature: Any, column: str) -> str:
    """What a column holds, for a person. Raises DataError for what cannot be labels."""
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return "class labels"
    kind = getattr(feature, "dtype", "nothing of one type")
    if isinstance(feature, datasets.Value) and ("int" in kind or "string" in kind):
        return "integers" if "int" in kind else "strings"
    raise DataError(f"Column '{column}' holds {kind}; expected class labels, integers or strings.")


def _named(
    raw: dict[str, NDArray[np.int64]], listed: dict[str, Any], column: str
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]]]:
    """The same for numbers in lists of names, of which each split has one of its own: names tell which is which."""
    joined = tuple(dict.fromkeys(name for names in listed.values() for name in names))
    for names in (*listed.values(), joined):
        class_names.check(names, f"the data set's list of names for column '{column}'")
    number_of, labels = {name: number for number, name in enumerate(joined)}, {}
    for split, values in raw.items():
        names = listed[split]
        if tuple(names) == joined:
            labels[split] = values.astype(np.int64)
            continue
        if len(values) and values.max() >= len(names):
            raise DataError(
                f"Column '{column}' of {split} holds {values.max()}, but its list has {len(names)} class names; "
                f"expected 0 to {len(names) - 1}."
            )
        labels[split] = np.array([number_of[name] for name in names], np.int64)[values]
    return joined, labels


def image_column(dataset: Any, column: str, folder: Path | None) -> Any:
    """The column as Arrow cells of {bytes, path}."""
    import datasets
    import pyarrow

    feature = look_up(dataset.features, column, f"{KEY}.image_column", "columns")
    kind = feature.pa_type if isinstance(feature, datasets.Image) else dataset.data.column(column).type
    is_cell = pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    is_path = pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)
    if is_path and folder is None:
        raise DataError(
            f"Column '{column}' holds text, which cannot be paths of images: of a data set on the Hub only its tables "
            f"are here. Choose a column of images with {KEY}.image_column, or download the data set and set data.path "
            "to its folder."
        )
    if not (is_cell or is_path or pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)):
        raise DataError(
            f"Column '{column}' holds {kind}; expected images, or paths to them. Choose another column with "
            f"{KEY}.image_column."
        )
    cells = dataset.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    return cells.data.column(column)


def look_up(known: Any, name: str, key: str, what: str, hint: str = "") -> Any:
    """known[name], or a DataError listing what there is."""
    if name not in known:
        raise DataError(
            f"{key} is '{name}'{nearest(name, list(known))}; the data set has these {what}: {', '.join(known)}.{hint}"
        )
    return known[name]
