"""Local files of a data set through the `datasets` library, and whose fault it is where that fails."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.preparation.divide import listed
from pipeline.preparation.hub_folder import KEY, Card
from pipeline.preparation.tree import printable
from pipeline.system.errors import DataError, PupilError


def saved(folder: Path) -> Any:
    """The splits of a data set that `save_to_disk` wrote, mapped where they lie; None for any other folder."""
    from datasets.load import load_from_disk

    if not (folder / "dataset_dict.json").is_file():
        return None
    try:
        return load_from_disk(str(folder))
    except Exception as error:  # its own errors have no common base
        raise DataError(f"data.path {folder} holds a saved data set that cannot be read: {why(error)}.") from error


def load(folder: Path, files: Mapping[str, Sequence[str]], card: Card) -> Any:
    """The splits of a local folder, as a datasets.DatasetDict."""
    from datasets.data_files import DataFilesDict, DataFilesList
    from datasets.load import infer_module_for_data_files, load_dataset
    from datasets.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    chained = [printable(name) for names in files.values() for name in names if "::" in str(folder.absolute() / name)]
    if chained:
        raise DataError(
            f"In data.path {folder}, {len(chained)} paths hold '::', which `datasets` takes for a file inside another: "
            f"{listed(chained)}. Rename the folder or the files."
        )
    nowhere = [printable(name) for names in files.values() for name in names if not (folder / name).exists()]
    if nowhere:
        raise DataError(
            f"In data.path {folder}, {len(nowhere)} files are links that lead nowhere: {listed(nowhere)}. Copy the "
            "files themselves there, as `cp -rL` does."
        )
    # Resolved here, because `datasets` would read names as patterns; the time takes the place of a revision.
    paths = {
        split: [(str(folder.absolute() / name), str(os.stat(folder / name).st_mtime_ns)) for name in names]
        for split, names in files.items()
    }
    lists = {split: DataFilesList([path for path, _ in it], [(time,) for _, time in it]) for split, it in paths.items()}
    # The library converts shards to Arrow files in its cache, and maps those. Mapped, they outlive their names, so the
    # cache can go at once: nothing stays in the source's folder, in the home folder, or in a temporary folder.
    with _temporary_folder(folder) as cache:
        shown = not are_progress_bars_disabled()
        disable_progress_bars()  # "Downloading data", where nothing is
        try:
            reader, options = infer_module_for_data_files(DataFilesDict(lists), str(folder))
            options = {**options, **card.options}
            if reader is None:
                raise ValueError("no file in it is of a kind that is known")
            return load_dataset(reader, data_files=lists, features=card.features, cache_dir=cache, **options)
        except Exception as error:  # its own errors have no common base, and readers of bad files raise any
            purpose = "a copy of the data set, which `datasets` makes there"
            blame_the_disk(error, cache, tempfile.gettempdir(), purpose, "TMPDIR")
            broken = _broken_shards(folder, [name for names in files.values() for name in names])
            if broken:
                raise DataError(
                    f"{len(broken)} Parquet files of data.path {folder} cannot be read: {listed(broken, '; ')}. Fetch "
                    "or write them again."
                ) from error
            raise DataError(
                f"data.path {folder} is not a folder that `datasets` can read: {why(error)}. Expected Parquet files "
                "named by split, such as train-00000-of-00001.parquet, or a folder of images for each split and class."
            ) from error
        finally:
            if shown:
                enable_progress_bars()


@contextmanager
def _temporary_folder(folder: Path) -> Iterator[str]:
    try:
        cache = tempfile.mkdtemp(prefix="pupil-")
    except OSError as error:
        raise PupilError(
            f"No temporary folder can be made, which is needed to read data.path {folder}: {error.strerror or error}. "
            "Set the environment variable TMPDIR to a folder that may be written."
        ) from error
    try:
        yield cache
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def blame_the_disk(error: BaseException, written: str, place: str, purpose: str, variable: str) -> None:
    """Raise PupilError, naming the place and what to set, where `error` comes from a disk that takes nothing.

    Either the disk is full or closed, or a file below `written` is meant, which lies in the place.
    """
    cause: BaseException | None = error
    while cause is not None:
        number = cause.errno if isinstance(cause, OSError) else None
        full = number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) or "disk space" in str(cause).lower()
        if full or (number is not None and str(getattr(cause, "filename", "")).startswith(written)):
            existing = next(folder for folder in (Path(place), *Path(place).parents) if folder.is_dir())
            free = shutil.disk_usage(existing).free / 2**20
            raise PupilError(
                f"The folder {place} does not take {purpose}: {cause} ({free:,.0f} MiB free there). Set the "
                f"environment variable {variable} to a folder that may be written, on a disk with as much "
                "room as the data set takes."
            ) from error
        cause = cause.__cause__ or cause.__context__


def _broken_shards(folder: Path, names: Sequence[str]) -> list[str]:
    """Parquet files that cannot be read to their end, each with the reason; `datasets` does not say which it is."""
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]  # ships no types

    broken = []
    for name in names:
        if not name.lower().endswith(".parquet"):
            continue
        try:
            for _ in parquet.ParquetFile(folder / name).iter_batches():
                pass
        except (ArrowException, OSError) as error:
            broken.append(f"{printable(name)} ({why(error)})")
    return broken


def why(error: Exception) -> str:
    """The first line of what went wrong, from the innermost cause: the outer ones only say that something did."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # Where a subset has to be named, the names stand in the second line.
    unnamed = lines[0].startswith("Config name")
    return f"{' '.join(lines[:2])}; choose with {KEY}.subset" if unnamed else lines[0].rstrip(".")
