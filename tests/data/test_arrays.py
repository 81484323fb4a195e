"""Prepared splits: what is written comes back, mapped and read-only; what does not fit its card is refused by name."""

import time
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

import numpy as np
import pytest

from pipeline.data import arrays
from pipeline.data.card import DataCard
from pipeline.settings.data import Normalization
from pipeline.system import files
from pipeline.system.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
LABELS = np.array([1, 0, 1], dtype=np.int64)


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[Path, DataCard]:
    """A prepared data set of one split with three images."""
    (tmp_path / "train").mkdir()
    with arrays.ImagesWriter(tmp_path / "train/images.npy", 3, 8) as writer:
        for pixels in PIXELS:
            writer.add(pixels)
        writer.finish()
    arrays.write_labels(tmp_path / "train/labels.npy", LABELS)
    card = DataCard(
        source="toy",
        labels=("a", "b"),
        image_px=8,
        storage_px=8,
        counts={"train": 3},
        class_counts={"train": (1, 2)},
        normalization=Normalization(mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3)),
        sha256={f"train/{name}.npy": files.sha256(tmp_path / f"train/{name}.npy") for name in ("images", "labels")},
        licence=None,
    )
    return tmp_path, card


def test_what_is_written_comes_back_mapped_and_read_only(prepared: tuple[Path, DataCard]) -> None:
    split = arrays.Split.load(prepared[0], "train", prepared[1])
    assert len(split) == 3
    assert isinstance(split.images, np.memmap)
    np.testing.assert_array_equal(split.images, PIXELS)
    np.testing.assert_array_equal(split.labels, LABELS)
    with pytest.raises(ValueError, match="read-only"):
        split.images[0] = 0


def test_the_writer_gives_the_bytes_of_numpy_save(prepared: tuple[Path, DataCard], tmp_path: Path) -> None:
    for name, array in (("images", PIXELS), ("labels", LABELS)):
        np.save(tmp_path / "saved.npy", array)
        assert (tmp_path / "saved.npy").read_bytes() == (prepared[0] / f"train/{name}.npy").read_bytes()


def test_the_writer_counts(tmp_path: Path) -> None:
    with arrays.ImagesWriter(tmp_path / "images.npy", 2, 8) as writer:
        writer.add(PIXELS[0])
        with pytest.raises(ValueError, match="1 images fewer"):
            writer.finish()
        with pytest.raises(ValueError, match=r"expected uint8 \(8, 8, 3\), but got float64"):
            writer.add(PIXELS[0] / 2)
        writer.add(PIXELS[1])
        with pytest.raises(ValueError, match="more images"):
            writer.add(PIXELS[2])


def test_load_names_file_expected_and_came(prepared: tuple[Path, DataCard]) -> None:
    folder, card = prepared
    with pytest.raises(DataError, match=r"images\.npy .* expected uint8 \(4, 8, 8, 3\), but got uint8 \(3, 8, 8, 3\)"):
        arrays.Split.load(folder, "train", card.model_copy(update={"counts": {"train": 4}}))
    np.save(folder / "train/labels.npy", LABELS.astype(np.int32))
    with pytest.raises(DataError, match=r"labels\.npy .* expected int64 \(3,\), but got int32"):
        arrays.Split.load(folder, "train", card)


def test_load_refuses_missing_torn_and_pickled_files(prepared: tuple[Path, DataCard]) -> None:
    folder, card = prepared
    images = folder / "train/images.npy"
    images.write_bytes(images.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"not a complete .npy file"):
        arrays.Split.load(folder, "train", card)
    np.save(images, np.array([{}], dtype=object))
    with pytest.raises(DataError, match=r"not a complete .npy file"):
        arrays.Split.load(folder, "train", card)
    images.write_bytes(b"")
    with pytest.raises(DataError, match=r"not a complete .npy file"):
        arrays.Split.load(folder, "train", card)
    images.unlink()
    with pytest.raises(DataError, match="is missing"):
        arrays.Split.load(folder, "train", card)
    with pytest.raises(DataError, match="no split 'test'; its card lists train"):
        arrays.Split.load(folder, "test", card)


def test_images_are_read_from_the_file_that_was_opened(prepared: tuple[Path, DataCard]) -> None:
    folder, card = prepared
    images = arrays.Split.load(folder, "train", card).images
    positions = np.array([2, 0, 2])
    expected = np.array(images[positions])
    read = arrays.RowReader(images)
    assert np.array_equal(read(positions), expected)

    path = folder / "train" / "images.npy"
    path.rename(folder / "earlier.npy")
    path.write_bytes(b"another")
    assert np.array_equal(read(positions), expected)

    with (folder / "earlier.npy").open("r+b") as file:
        file.truncate(300)
    with pytest.raises(DataError, match="became shorter while it was being read"):
        read(positions)


def test_threads_that_share_a_reader_get_their_own_rows(
    prepared: tuple[Path, DataCard], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(FileIO):
        """Lets another thread come between finding the place and reading there."""

        def seek(self, offset: int, whence: int = 0) -> int:
            place = super().seek(offset, whence)
            time.sleep(0.001)
            return place

    monkeypatch.setattr(arrays, "FileIO", Slow)
    folder, card = prepared
    read = arrays.RowReader(arrays.Split.load(folder, "train", card).images)
    orders = [np.full(20, number) for number in (0, 1, 2)]
    with ThreadPoolExecutor(3) as threads:
        for order, rows in zip(orders, threads.map(read, orders), strict=True):
            assert np.array_equal(rows, PIXELS[order])
