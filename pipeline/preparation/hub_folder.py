"""A folder that holds a data set as the Hub has them: which files are of which split.

What the data set's README.md says (`configs`) goes first. Else tables (`train-00000-of-00001.parquet`, `train.csv`)
are of the split that their own name names, or the folder that they lie in; if none names one, all are train. Names of
splits in the names of other files mean nothing: images in class folders are read by `class_folders`.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.preparation.divide import listed
from pipeline.preparation.image_files import is_image
from pipeline.preparation.source import LeftOut
from pipeline.preparation.tree import Tree, printable
from pipeline.system.errors import DataError
from pipeline.system.registry import nearest

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Names of splits, and how folders and files of them are called, in small letters."""
TABLES = frozenset({".parquet", ".arrow", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".tar", ".zip", ".h5", ".hdf5"})
_METADATA = frozenset({"metadata.csv", "metadata.jsonl", "metadata.parquet"})
_ABOUT = frozenset({"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
KEY = "data.sources.huggingface"


@dataclass(frozen=True)
class Card:
    """What README.md says of how to read the chosen subset."""

    patterns: Mapping[str, Sequence[str]] | None = None
    """Of the files of each split; None where it says nothing."""
    features: Any = None
    """datasets.Features, or None."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the reader, such as the separator of a CSV file."""
    licence: str | None = None


def known_splits(wanted: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """SPLITS, and those that somebody asks for by another name."""
    own = {name: (name.lower(),) for name in wanted if name not in SPLITS}
    asked = {name for names in own.values() for name in names}
    return own | {split: tuple(name for name in names if name not in asked) for split, names in SPLITS.items()}


def read_card(folder: Path, subset: str | None) -> Card:
    """What README.md says. Raises DataError where it cannot be read, or has no such subset."""
    from datasets.info import DatasetInfosDict  # seconds to import
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCardData
    from huggingface_hub.repocard import metadata_load

    readme = folder / "README.md"
    try:
        said = DatasetCardData(**((metadata_load(readme) if readme.is_file() else None) or {}))
        configs = MetadataConfigs.from_dataset_card_data(said)
        infos = DatasetInfosDict.from_dataset_card_data(said)
        default = configs.get_default_config_name()
    except Exception as error:  # of YAML, of its checks, of types
        raise DataError(
            f"{readme} cannot be read: {str(error).strip().splitlines()[0]}. Correct it, or remove it."
        ) from error
    name = subset or default or ""
    if configs and not name:
        raise DataError(f"The data set has these subsets: {', '.join(configs)}. Choose one with {KEY}.subset.")
    if subset is not None and subset not in configs:
        known = f"these: {', '.join(configs)}" if configs else "none"
        raise DataError(
            f"{KEY}.subset is '{subset}'{nearest(subset, list(configs))}; of subsets, {readme} names {known}."
        )
    options = dict(configs.get(name, {}))
    where, patterns = options.pop("data_dir", None), options.pop("data_files", None)
    options.pop("default", None)
    info = infos.get(name) or (next(iter(infos.values())) if len(infos) == 1 else None)
    features = options.pop("features", None) or (info.features if info else None)
    licence = said.license if isinstance(said.license, str) else None
    return Card(_by_split(patterns, where), features, options, licence)


def _by_split(patterns: Any, where: str | None) -> dict[str, list[str]] | None:
    """{split: patterns} from any way in which README.md may put it."""
    if patterns is None:
        return {"train": [f"{where}/**"]} if where else None
    entries = patterns if isinstance(patterns, list) else [patterns]
    found: dict[str, list[str]] = {}
    for entry in entries:
        split, paths = (entry["split"], entry["path"]) if isinstance(entry, dict) else ("train", entry)
        for path in paths if isinstance(paths, list) else [paths]:
            found.setdefault(split, []).append(str(PurePosixPath(where or "", path)))
    return found


def class_folders_alone(tree: Tree) -> bool:
    """Whether images in folders are the data, rather than tables that may name images."""
    tables = [name for name in tree.files if _is_table(name)]
    metadata = any(PurePosixPath(name).name in _METADATA for name in tree.files)
    images = [name for name in tree.files if is_image(name)]
    if not images or metadata or any(_split_of(name, SPLITS) for name in tables):
        return False
    return not tables or len({name.split("/")[0] for name in images if "/" in name}) > 1


def split_files(folder: Path, tree: Tree, card: Card, known: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The data files of each split. Raises DataError where there are none, or one is in two splits."""
    if card.patterns is not None:
        return _matching(folder, tree, card.patterns)
    names = [name for name in tree.files if _is_table(name)]
    if any(PurePosixPath(name).name in _METADATA for name in tree.files):
        names = [name for name in tree.files if is_image(name) or PurePosixPath(name).name in _METADATA]
        of = {name: _split_named(name.split("/")[0], known) if "/" in name else None for name in names}
    else:
        of = {name: _split_of(name, known) for name in names}
    _check_shards(folder, names)
    if not names:
        raise DataError(
            f"data.path {folder} holds neither tables ({' '.join(sorted(TABLES))}) nor images. Expected Parquet files "
            "named by split, such as train-00000-of-00001.parquet, or a folder of images for each split and class."
        )
    if not any(of.values()):
        return {"train": names}
    return {split: found for split in known if (found := [name for name in names if of[name] == split])}


def left_out(tree: Tree, files: Mapping[str, Sequence[str]], chosen: Sequence[str], named: set[str]) -> list[LeftOut]:
    """What of the folder is not read, given the files of all splits, which splits are, and which images tables name."""
    # That an image was handed to the reader says little: a table beside it may not name it.
    read = {name for split in chosen for name in files[split] if not is_image(name)} | named
    unused = {split: [name for name in files[split] if name not in read] for split in files if split not in chosen}
    rest = set(tree.files) - read - {name for names in unused.values() for name in names}
    images = {name for name in rest if is_image(name)}
    tables = {name for name in rest if _is_table(name)}
    groups = [
        (f"files are of the split {split}, which {KEY} does not name", names, False) for split, names in unused.items()
    ]
    groups += [
        ("files are hidden or were put there by a system", list(tree.clutter), False),
        ("tables do not say in their names of which split they are", sorted(tables), False),
        ("images are named in no row of a table that is read", sorted(images), True),
        ("files are neither images nor tables", sorted(rest - images - tables), False),
    ]
    return [LeftOut(why, tuple(map(printable, names)), meant) for why, names, meant in groups if names]


def _matching(folder: Path, tree: Tree, patterns: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Files by the patterns of README.md, which know names below the folder alone: its own may hold any sign."""
    from fsspec.utils import glob_translate  # type: ignore[import-untyped]  # ships no types; `datasets` matches so

    files: dict[str, list[str]] = {}
    home: dict[str, str] = {}
    data = [name for name in tree.files if _is_table(name) or is_image(name) or PurePosixPath(name).name in _METADATA]
    for split, wanted in patterns.items():
        matches = [re.compile(glob_translate(pattern)) for pattern in wanted]
        files[split] = [name for name in data if any(match.match(name) for match in matches)]
        if not files[split]:
            raise DataError(
                f"{folder / 'README.md'} says that the split {split} is {listed(list(wanted))}, but data.path {folder} "
                "holds no such images or tables. Bring the files, or correct README.md."
            )
        for name in files[split]:
            if home.setdefault(name, split) != split:
                raise DataError(
                    f"{folder / 'README.md'} puts {printable(name)} into two splits, {home[name]} and {split}. Correct "
                    "its patterns."
                )
    return files


def _check_shards(folder: Path, names: Sequence[str]) -> None:
    """Raise DataError where files that count themselves (train-00000-of-00005) are not all there."""
    parts = [match for name in names if (match := re.fullmatch(r"(.*)-\d{5}-of-(\d{5}).*", name, re.DOTALL))]
    present = Counter((match[1], match[2]) for match in parts)
    lost = [f"{name}: {count} of {int(total)}" for (name, total), count in present.items() if count < int(total)]
    if lost:
        raise DataError(
            f"Not all parts of the tables in data.path {folder} are there, by their own names: "
            f"{listed(list(map(printable, lost)))}. Fetch the others."
        )


def _is_table(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in TABLES and path.name not in _ABOUT and path.name not in _METADATA


def _split_of(name: str, known: Mapping[str, Sequence[str]]) -> str | None:
    """The split that the name of a table, or the nearest folder around it, names."""
    path = PurePosixPath(name)
    return next(
        (split for part in (path.stem, *reversed(path.parts[:-1])) if (split := _split_named(part, known))), None
    )


def _split_named(name: str, known: Mapping[str, Sequence[str]]) -> str | None:
    """The one split that is a word of a name: all of it, what stands before the number of a shard, or between signs."""
    whole = re.sub(r"-\d{5}-of-\d{5}.*", "", name).lower()
    words = {whole} if any(whole in names for names in known.values()) else set(re.split(r"[-._ 0-9]+", whole))
    found = [split for split, names in known.items() if words.intersection(names)]
    return found[0] if len(found) == 1 else None
