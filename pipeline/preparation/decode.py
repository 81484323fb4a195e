"""From an image file to RGB pixels, and from pixels of any size to the square that networks see. Thread safe."""

import io
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipeline.system.errors import DataError

WHITE = (255, 255, 255, 255)
_BEGINNINGS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
_EXTENSIONS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    ".png": "PNG",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".webp": "WEBP",
}
Kind = Literal["missing", "empty", "unreadable", "truncated"]


class BadImageError(DataError):
    """One image cannot be used: no such file, not a byte in it, only its beginning, or something else than an image."""

    def __init__(self, name: str, kind: Kind, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.kind: Kind = kind
        self.reason = reason


def rgb(file: Path | BinaryIO, name: str) -> NDArray[np.uint8]:
    """Pixels (h, w, 3) of an image file, upright and in RGB. Raises BadImageError with `name` if there are none.

    - The EXIF orientation is applied, as every viewer does.
    - Transparency is laid over white: what has an alpha channel (logos, products, scans) was mostly drawn for a white
      page, and Pillow's plain conversion would show whatever colour, often black, lies hidden under it.
    - 16-bit grey is divided by 256; Pillow would clip it at 255. CMYK goes through Pillow's formula, no colour profile
      is applied.
    - Of an animation the first frame is taken.
    """
    try:
        content = file.read_bytes() if isinstance(file, Path) else file.read()
    except FileNotFoundError as error:
        raise BadImageError(name, "missing", "there is no such file") from error
    except OSError as error:
        raise BadImageError(name, "unreadable", error.strerror or str(error)) from error
    if not content:
        raise BadImageError(name, "empty", "the file has no bytes")
    try:
        known = format_of(content)
        # Named, because Pillow tries all its formats in turn: a third of the time of a WebP file as small as CIFAR's.
        with Image.open(io.BytesIO(content), formats=(known,) if known else None) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(_as_rgb(image))
    # The decoders of foreign bytes raise OSError, SyntaxError, ValueError, struct.error, zlib.error, bomb errors, ...
    except Exception as error:
        kind: Kind = "truncated" if _is_truncated(content, error) else "unreadable"
        raise BadImageError(name, kind, _reason(error)) from error


def format_of(content: bytes) -> str | None:
    """Pillow's name of the common format that a file with this beginning (12 bytes or more) has; None for any other."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    return next((name for beginning, name in _BEGINNINGS.items() if content.startswith(beginning)), None)


def wrong_extension(path: Path) -> str | None:
    """In which way a file that can be decoded is not what its name says; None where it is, or the name says nothing."""
    expected = _EXTENSIONS.get(path.suffix.lower())
    if expected is None:
        return None
    try:
        with path.open("rb") as file:
            came = format_of(file.read(12))
    except OSError:  # gone since it was decoded: nothing hangs on it any more
        return None
    return None if came == expected else f"named {path.suffix}, but {came or 'of another format'}"


def square(pixels: NDArray[np.uint8], image_px: int) -> NDArray[np.uint8]:
    """(image_px, image_px, 3) from (h, w, 3): the short side becomes image_px, the long one is cut around its middle.

    Bicubic and antialiased, one step for both. Pixels that already have the size come back as they are.
    """
    height, width = pixels.shape[:2]
    if height == width == image_px:
        return pixels
    short = min(height, width)
    left, top = (width - short) / 2, (height - short) / 2
    image = Image.fromarray(pixels)
    box = (left, top, left + short, top + short)
    return np.asarray(image.resize((image_px, image_px), Image.Resampling.BICUBIC, box=box))


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no known range; store them with 8 or 16 bits")
    return image.convert("RGB")


def _is_truncated(content: bytes, error: Exception) -> bool:
    """Whether a file that gives `error` ends before its image does."""
    # libwebp says no more than that it failed; the header of its files says how long they are.
    if content[:4] == b"RIFF" and int.from_bytes(content[4:8], "little") + 8 > len(content):
        return True
    return "truncated" in str(error).lower()


def _reason(error: Exception) -> str:
    """What Pillow says, without the address of the buffer that stands in "cannot identify image file"."""
    return str(error).split(" <")[0] or type(error).__name__
