"""A prepared split on disk: `images.npy` and `labels.npy`, mapped, read by position, written one image at a time.

Images are stored as squares of storage_px. Evaluation, of torch and of ONNX files alike, sees the middle image_px of
them: `central_reader`. What training cuts out is drawn in augment.py. A student may see less than its teacher: then
what was cut out for both is made smaller for the student, by a filter that leaves no finer detail than its pixels can
show (`smaller` here, and for batches on a device `augment.smaller`).
"""

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO, FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.card import DataCard
from pipeline.system.errors import DataError

T = TypeVar("T", bound=np.generic)
REMAKE = "Run `dvc repro --force prepare`."


@dataclass(frozen=True)
class Split:
    """Images and labels of one split; only the pages that are touched come into memory, and none can be written."""

    images: NDArray[np.uint8]
    """(N, H, W, 3) pixels in [0, 255], RGB."""
    labels: NDArray[np.int64]
    """(N,) class numbers in [0, K)."""
    image_px: int | None = None
    """Height and width of what is cut out of each image; None: all of it."""
    scaled_px: int | None = None
    """Height and width that this is made smaller to, for a network that sees no more; None: it sees it as it is."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def seen_px(self) -> int:
        """Height and width of what the network sees."""
        return self.scaled_px or self.cut_px

    @property
    def cut_px(self) -> int:
        """Height and width of what is cut out of each image."""
        return self.image_px or self.images.shape[1]

    def central_reader(self) -> Callable[[NDArray[np.int64]], NDArray[np.uint8]]:
        """Reads the middle of the images at positions (B,), as the network sees it: (B, seen_px, seen_px, 3)."""
        read, middle = RowReader(self.images), centre(self.images.shape[1], self.cut_px)
        return lambda positions: smaller(np.ascontiguousarray(read(positions)[:, middle, middle]), self.seen_px)

    def drawn(self, images: int, seed: int) -> NDArray[np.uint8]:
        """As many images, or all that there are, drawn by `seed`, as `central_reader` shows them."""
        positions = np.random.default_rng(seed).choice(len(self), min(images, len(self)), replace=False)
        return self.central_reader()(np.sort(positions))

    @classmethod
    def load(cls, folder: Path, name: str, card: DataCard, seen_px: int | None = None) -> Self:
        """Map split `name` ("train", "val", "test") of the prepared data set in `folder`.

        `seen_px` is of a network that sees less than the card's image_px; None: it sees as much.

        Raises DataError naming the file, what the card promises and what came. Bytes are not hashed, because that
        reads everything; `dvc status` tells a file that changed.
        """
        if name not in card.counts:
            raise DataError(f"{folder} has no split '{name}'; its card lists {', '.join(card.counts)}.")
        if seen_px is not None and seen_px > card.image_px:
            raise DataError(
                f"a network that sees images of {seen_px} px cannot be shown those in {folder}, out of which "
                f"{card.image_px} px are cut. Prepare larger ones (data.image_px), or train it again "
                "(student.image_px)."
            )
        num = card.counts[name]
        images = mapped(folder / name / "images.npy", (num, card.storage_px, card.storage_px, 3), np.uint8)
        labels = mapped(folder / name / "labels.npy", (num,), np.int64)
        return cls(images, labels, card.image_px, seen_px if seen_px != card.image_px else None)


def centre(stored_px: int, image_px: int) -> slice:
    """The middle image_px of stored_px rows, and of as many columns; as torchvision's CenterCrop rounds it."""
    start = round((stored_px - image_px) / 2)
    return slice(start, start + image_px)


def smaller(pixels: NDArray[np.uint8], seen_px: int) -> NDArray[np.uint8]:
    """uint8 (B, H, H, 3) -> (B, seen_px, seen_px, 3), by Pillow's antialiased bilinear interpolation.

    serve/model/decode.py does the same, so that what evaluation measures is what is served.
    """
    if pixels.shape[1] == seen_px:
        return pixels
    size = seen_px, seen_px
    return np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)) for image in pixels])


class RowReader(Generic[T]):
    """Rows of an array (N, ...) by their positions, for any number of threads; a mapped file is read, not mapped in.

    Pages that are mapped in stay in the process's memory until the system wants them back, so that it seems to grow
    with the data; and at a random place the system reads megabytes ahead for every page that it lacks.
    """

    def __init__(self, array: NDArray[T], remake: str = REMAKE) -> None:
        self._array, self._remake = array, remake
        self._file: FileIO | None = None
        # One thread gathers ahead while another mixes, and a file has one place at which it is read.
        self._lock = threading.Lock()
        if isinstance(array, np.memmap):
            # Kept open: another file may take its name.
            self._file = FileIO(str(array.filename))
            weakref.finalize(self, self._file.close)

    def __call__(self, positions: NDArray[np.int64]) -> NDArray[T]:
        """(B, ...) of the rows at `positions` (B,). Raises DataError where the file has become shorter."""
        if self._file is None:
            return self._array[positions]
        assert isinstance(self._array, np.memmap)
        rows = np.empty((len(positions), *self._array.shape[1:]), self._array.dtype)
        for row, position in zip(rows, positions.tolist(), strict=True):
            with self._lock:
                self._file.seek(self._array.offset + position * row.nbytes)
                num_read = self._file.readinto(row.data.cast("B"))
            if num_read != row.nbytes:
                raise DataError(f"{self._array.filename} became shorter while it was being read. {self._remake}")
        return rows


class ImagesWriter:
    """Writes (num, px, px, 3) uint8 as .npy, one image after the other, holding none. Leaving it closes the file.

    Plain appends, not a writable memory map: on a full disk a map ends the process with SIGBUS, an append raises
    OSError, which a person can be told about.
    """

    def __init__(self, path: Path, num: int, image_px: int) -> None:
        self._shape = (image_px, image_px, 3)
        self._missing = num
        self._file = path.open("wb")
        self._file.write(header("|u1", (num, *self._shape)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, pixels: NDArray[np.uint8]) -> None:
        """Append one image (px, px, 3). Raises OSError when the disk refuses."""
        if pixels.shape != self._shape or pixels.dtype != np.uint8:
            raise ValueError(f"expected uint8 {self._shape}, but got {pixels.dtype} {pixels.shape}")
        if self._missing == 0:
            raise ValueError("more images than the header announces")
        self._file.write(pixels.tobytes())
        self._missing -= 1

    def finish(self) -> None:
        """Put what is buffered on the file. Raises ValueError if images are missing that the header announces."""
        if self._missing:
            raise ValueError(f"{self._missing} images fewer than the header announces")
        self._file.flush()


def write_labels(path: Path, labels: NDArray[np.int64]) -> None:
    """Write class numbers (N,) as .npy. Raises OSError when the disk refuses."""
    with path.open("wb") as file:
        file.write(header("<i8", labels.shape))
        # Not numpy's own writing: it loses why the disk refused ("6000 requested and 1234 written").
        file.write(labels.astype("<i8").tobytes())


def header(kind: str, shape: tuple[int, ...]) -> bytes:
    """What a .npy file of a C-ordered array begins with; as long for fewer rows as for more."""
    beginning = BytesIO()
    np.lib.format.write_array_header_1_0(beginning, {"descr": kind, "fortran_order": False, "shape": shape})
    return beginning.getvalue()


def mapped(path: Path, shape: tuple[int, ...], dtype: type[T]) -> NDArray[T]:
    """A read-only map of a .npy file, checked against the card."""
    try:
        array: NDArray[T] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing, though the card beside it lists this split. {REMAKE}") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is not a complete .npy file: {error}. {REMAKE}") from error
    check_fit(path, array, shape, dtype, REMAKE)
    return array


def check_fit(
    path: Path, array: NDArray[np.generic], shape: tuple[int, ...], dtype: type[np.generic] | np.dtype[Any], remake: str
) -> None:
    """Raise DataError where what `path` holds is not what its card says; `remake` is what to do then."""
    if array.shape != shape or array.dtype != dtype:
        raise DataError(
            f"{path} does not fit its card: expected {np.dtype(dtype)} {shape}, but got {array.dtype} {array.shape}. "
            f"{remake}"
        )
