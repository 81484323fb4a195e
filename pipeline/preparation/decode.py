"""From an image file to RGB pixels, and from pixels of any size to the square that networks see. Thread safe."""

import io
import warnings
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin

from pipeline.preparation.formats import EXTENSIONS, NEEDED, format_of, is_cut
from pipeline.system.errors import DataError

MAX_PIXELS = 250_000_000
"""Of one image, which takes 8 bytes for each while it is read, and 16 where it is transparent (measured)."""
LFS_POINTER = b"version https://git-lfs.github.com/"
WHITE = (255, 255, 255, 255)
ORIENTATION = 0x0112
# How to turn an image whose EXIF orientation is not 1.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# PNG files of these kinds may name one value as transparent, and Pillow compares it after it has changed the values.
# The factor is what it has multiplied them by.
KEYED = {"L;2": 85, "L;4": 17, "I;16B": 1, "RGB;16B": 1}
TEXT = frozenset({b"tEXt", b"zTXt", b"iTXt", b"iCCP"})
Kind = Literal["missing", "empty", "unreadable", "truncated"]

pillow_heif.register_heif_opener()
pillow_heif.options.DECODE_THREADS = 1  # as many images are read at once as there are cores
Image.MAX_IMAGE_PIXELS = None  # MAX_PIXELS says it; Pillow would warn of half as many
# Of metadata that Pillow cannot read, and of which no pixel depends.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class BadImageError(DataError):
    """One image cannot be used: no such file, not a byte in it, only its beginning, or something else than an image."""

    def __init__(self, name: str, kind: Kind, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.kind: Kind = kind
        self.reason = reason


class _RefusedError(Exception):
    """The file is sound, but its pixels cannot be used."""


def rgb(file: Path | BinaryIO, name: str) -> NDArray[np.uint8]:
    """Pixels (h, w, 3) of an image file, upright and in RGB. Raises BadImageError with `name` if there are none.

    - The EXIF orientation is applied, as every viewer does; nothing else of EXIF is read, so nothing else can be wrong.
    - Transparency is laid over white: what has an alpha channel (logos, products, scans) was mostly drawn for a white
      page, and Pillow's plain conversion would show whatever colour, often black, lies hidden under it.
    - Of grey with 12 or 16 bits the upper 8 are taken; Pillow would clip it at 255. CMYK goes through Pillow's formula,
      no colour profile is applied.
    - Of an animation the first frame is taken, of a file with several pictures the first one.

    The server decodes in the same way (serve/model/decode.py), and a test compares the two, pixel for pixel.
    """
    try:
        content = file.read_bytes() if isinstance(file, Path) else file.read()
    except FileNotFoundError as error:
        raise BadImageError(name, "missing", "there is no such file") from error
    except OSError as error:
        raise BadImageError(name, "unreadable", error.strerror or str(error)) from error
    if not content:
        raise BadImageError(name, "empty", "the file has no bytes")
    known = format_of(content)
    try:
        # Named, because Pillow tries all its formats in turn: a third of the time of a WebP file as small as CIFAR's.
        pixels = _pixels_alone(content)
        return _array(_opened(pixels, known))
    except _RefusedError as error:
        raise BadImageError(name, "unreadable", str(error)) from error
    # The decoders of foreign bytes raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
    except Exception as error:
        if is_cut(content) or (known is None and "truncated" in str(error)):
            raise BadImageError(name, "truncated", f"the file ends before its image does ({_reason(error)})") from error
        if known is None:
            what = f"this is no image that can be read; it begins with {content[:16]!r}"
            if content.startswith(LFS_POINTER):
                what = "this is a pointer of Git LFS; fetch the image itself, with `git lfs pull`"
            raise BadImageError(name, "unreadable", what) from error
        raise BadImageError(name, "unreadable", f"the {known} file is broken ({_reason(error)})") from error


def wrong_extension(path: Path) -> str | None:
    """In which way a file that can be decoded is not what its name says; None where it is, or the name says nothing."""
    expected = EXTENSIONS.get(path.suffix.lower())
    if expected is None:
        return None
    try:
        with path.open("rb") as file:
            came = format_of(file.read(NEEDED))
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


def _opened(content: bytes, known: str | None) -> Image.Image:
    """The picture in RGB and upright; what it was made from is let go with the return."""
    with Image.open(io.BytesIO(content), formats=(known,) if known else None) as image:
        if image.width * image.height > MAX_PIXELS:
            raise _RefusedError(
                f"{image.width} x {image.height} pixels are more than the {MAX_PIXELS:,} that are read; make it smaller"
            )
        return _upright(image, _as_rgb(image, _opaque(image, content)))


def _array(image: Image.Image) -> NDArray[np.uint8]:
    """(h, w, 3) of an RGB image, some rows at a time: as a whole, Pillow would hold two more copies meanwhile."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, 2**20 // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def _as_rgb(image: Image.Image, opaque: Image.Image | None) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        image = _high_byte(image)
    if opaque is not None:
        white = Image.new("RGB", image.size, WHITE[:3])
        white.paste(image.convert("RGB"), mask=opaque)
        return white
    if image.mode in ("I", "F"):
        raise _RefusedError(f"pixels of mode {image.mode} have no known range; store them with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    if image.mode == "RGB":
        image.load()  # while its file is open
        return image
    return image.convert("RGB")


def _high_byte(image: Image.Image) -> Image.Image:
    """The upper 8 bits of grey. A TIFF says how many it has (Pillow keeps 12 as they are), and whether 0 is white."""
    bits, zero_is_white = 16, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2[TiffImagePlugin.BITSPERSAMPLE][0]
        zero_is_white = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    grey = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
    return Image.fromarray(255 - grey if zero_is_white else grey)


def _opaque(image: ImageFile.ImageFile, content: bytes) -> Image.Image | None:
    """Where a PNG does not have the one value that it names as transparent; None where Pillow can tell, or all is."""
    kind, key = image.tile[0].args if image.tile else None, image.info.get("transparency")
    if image.format != "PNG" or key is None or kind not in KEYED:
        return None
    del image.info["transparency"]
    values = np.asarray(image).reshape(image.height, image.width, -1).astype(np.uint16)
    if kind == "RGB;16B":  # of which Pillow keeps the high bytes; taken as little-endian, they are the low ones
        with Image.open(io.BytesIO(content), formats=("PNG",)) as low:
            low.tile = [piece._replace(args="RGB;16L") for piece in low.tile]
            values = values << 8 | np.asarray(low)
    return Image.fromarray((values != np.array(key, np.uint16) * KEYED[kind]).any(-1))


def _upright(image: Image.Image, pixels: Image.Image) -> Image.Image:
    """Pixels of an image that is decoded, turned as its EXIF block says; a broken one says nothing."""
    try:
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # struct.error, SyntaxError, TypeError, ValueError, ...
        return pixels
    return pixels if turn is None else pixels.transpose(turn)


def _pixels_alone(content: bytes) -> bytes:
    """A PNG without its texts and colour profile, which may unfold to more than Pillow accepts; others as they are."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return content
    kept, at = [content[:8]], 8
    while at < len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4])
        if content[at + 4 : at + 8] not in TEXT:
            kept.append(content[at:end])
        at = end
    return b"".join(kept)


def _reason(error: Exception) -> str:
    """What Pillow says, without the address of the buffer that stands in "cannot identify image file"."""
    return str(error).split(" <")[0].strip() or type(error).__name__
