"""Any image data set that the `datasets` library reads: a folder of Parquet shards or of images, or an id on the Hub.

A folder is read without touching the network and leaves nothing behind; which of its files are of which split,
`hub_folder` says. Class names are those of the data set where its label column has them, else its values, sorted.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from pipeline.preparation import class_folders, class_names, hub_folder, tree
from pipeline.preparation.divide import hold_out
from pipeline.preparation.hub_folder import KEY
from pipeline.preparation.hub_load import blame_the_disk, load, saved, why
from pipeline.preparation.hub_rows import Rows, image_column, labels_of, look_up
from pipeline.preparation.source import LeftOut, Source
from pipeline.preparation.tree import Tree, open_walk, printable
from pipeline.settings.data import Data
from pipeline.settings.section import Section
from pipeline.system.errors import DataError, ParamsError

Name = Annotated[str, Field(min_length=1)]


class Config(Section):
    """Which columns and splits of the data set to take."""

    image_column: Name = "image"
    """The column of encoded images, or of paths to them, which start at data.path. Folders of images need none."""
    label_column: Name = "label"
    """The column of class names, or of their numbers. Folders of images need none."""
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

    @property
    def splits(self) -> dict[str, str]:
        """What the data set calls each split that is read."""
        wanted = {"train": self.train_split, "val": self.val_split, "test": self.test_split}
        return {split: name for split, name in wanted.items() if name}

    @model_validator(mode="after")
    def _splits_differ(self) -> "Config":
        if len(set(self.splits.values())) < len(self.splits):
            raise ValueError(
                "train_split, val_split and test_split must differ, so that no test image is used for training"
            )
        return self


def open_source(config: Config, data: Data) -> Source:
    """Find splits, columns and labels; no image is decoded yet.

    Raises ParamsError if data.path is not given, DataError if there is no such data set, split or column, if a label
    is missing, or if the label column holds neither classes, integers nor strings.
    """
    if data.path is None or not Path(data.path).is_dir():
        return _open_hub(_hub_id(data.path), config, data)
    return _open_folder(Path(data.path), config, data)


def _open_hub(hub_id: str, config: Config, data: Data) -> Source:
    loaded = _fetch(hub_id, config)
    chosen = {split: _split(loaded, split, name) for split, name in config.splits.items()}
    unused = [
        LeftOut(
            f"rows are of the split {name}, which {KEY} does not name",
            tuple(f"{name} row {row}" for row in range(len(dataset))),
        )
        for name, dataset in loaded.items()
        if name not in config.splits.values()
    ]
    return _source(chosen, config, data, chosen["train"].info.license or None, None, unused)


def fingerprint(config: Config, data: Data) -> tuple[int, str] | None:
    """Of all files of a folder; None for the Hub, where `revision` says what is read."""
    if data.path is None or not Path(data.path).is_dir():
        _hub_id(data.path)
        return None
    return tree.fingerprint(Path(data.path))


def _open_folder(folder: Path, config: Config, data: Data) -> Source:
    walked = open_walk(folder)
    known = hub_folder.known_splits(list(config.splits.values()))
    card = hub_folder.read_card(folder, config.subset)
    if card.patterns is None and hub_folder.class_folders_alone(walked):
        return _open_class_folders(folder, walked, known, config, data)
    mapped = saved(folder)
    files = (
        {split: list(walked.files) for split in mapped}
        if mapped
        else hub_folder.split_files(folder, walked, card, known)
    )
    for split, name in config.splits.items():
        _split(files, split, name)
    wanted = {name: files[name] for name in config.splits.values()}
    loaded = mapped or load(folder, wanted, card)
    chosen = {split: loaded[name] for split, name in config.splits.items()}
    source = _source(chosen, config, data, card.licence, folder, [])
    named = {path for rows in source.splits.values() if isinstance(rows, Rows) for path in rows.paths()}
    groups = hub_folder.left_out(walked, files, list(wanted), named)
    return Source(source.labels, source.splits, source.licence, tuple(groups))


def _open_class_folders(
    folder: Path, walked: Tree, known: Mapping[str, Sequence[str]], config: Config, data: Data
) -> Source:
    found = class_folders.layout(folder, walked, known)
    chosen = config.splits
    class_folders.check(folder, found)
    for split, name in chosen.items():
        _split(found.splits, split, name)
    names = tuple(sorted({name for split in chosen.values() for name in found.splits[split]}))
    class_names.check(names, f"the folders of data.path {folder}")
    splits = {split: found.records(folder, name, names) for split, name in chosen.items()}
    taken = {file for records in splits.values() for file in records.files}
    if config.test_split is None:
        kept, drawn = hold_out(splits["train"].labels, config.test_fraction, data.seed)
        splits |= {"train": splits["train"].chosen(kept), "test": splits["train"].chosen(drawn)}
    unused = {
        name: [file for files in found.splits[name].values() for file in files]
        for name in found.splits.keys() - chosen.values()
    }
    groups = [
        LeftOut(f"images are of the split {name}, which {KEY} does not name", tuple(map(printable, files)))
        for name, files in sorted(unused.items())
    ]
    taken |= {file for files in unused.values() for file in files}
    return Source(names, splits, None, (*groups, *class_folders.left_out(walked, taken)))


def _source(
    chosen: dict[str, Any],
    config: Config,
    data: Data,
    licence: str | None,
    folder: Path | None,
    left_out: list[LeftOut],
) -> Source:
    names, labels = labels_of(chosen, config.label_column)
    splits: dict[str, Rows] = {}
    for split, dataset in chosen.items():
        images = image_column(dataset, config.image_column, folder)
        splits[split] = Rows(config.splits[split], images, labels[split], np.arange(len(labels[split])), folder)
    if config.test_split is None:
        kept, drawn = hold_out(labels["train"], config.test_fraction, data.seed)
        splits |= {"train": splits["train"].chosen(kept), "test": splits["train"].chosen(drawn)}
    return Source(names, splits, licence, tuple(left_out))


def _split(known: Any, split: str, name: str) -> Any:
    """known[name], or a DataError that says what to set."""
    hint = f"Set {KEY}.{split}_split to one of them." if len(known) > 1 or split == "train" else ""
    if split == "test":
        hint += f" If none is for testing, set {KEY}.test_split: null: then test_fraction of train is drawn for it."
    if split == "val":
        hint += f" With {KEY}.val_split: null, data.val_fraction of train is drawn for it."
    return look_up(known, name, f"{KEY}.{split}_split", "splits", f" {hint.strip()}")


def _hub_id(path: str | None) -> str:
    """data.path that is no folder. Raises ParamsError or DataError where it cannot be the id of a data set either."""
    if path is None:
        raise ParamsError(
            "params.yaml: data.path is null, but the source huggingface needs a folder or a Hub id there."
        )
    if Path(path).is_file():
        raise DataError(f"data.path {path} is a file; expected the folder that holds the data set.")
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise DataError(f"data.path {path} does not exist; expected a folder, or an id on the Hub such as org/name.")
    return path


def _fetch(hub_id: str, config: Config) -> Any:
    """The splits of a data set on the Hub, as a datasets.DatasetDict; what was fetched before comes from its cache."""
    from datasets.config import HF_CACHE_HOME
    from datasets.load import load_dataset

    try:
        return load_dataset(hub_id, config.subset, revision=config.revision)
    except Exception as error:  # its own errors have no common base, and those of the network even less
        blame_the_disk(error, str(HF_CACHE_HOME), str(HF_CACHE_HOME), "what is fetched from the Hub", "HF_HOME")
        raise DataError(
            f"There is no folder {hub_id}, and as a data set id it could not be fetched from the Hub: {why(error)}. "
            "If this machine has no access to the network, download the data set on one that has, and set data.path "
            "to its folder."
        ) from error
