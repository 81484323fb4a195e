"""From the bytes of an image file to the pixels that a model takes. Thread safe.

What becomes of alpha, palettes, 16 bits, CMYK, orientation and of pictures that are no squares is what `prepare` did to
the images of the data set (pipeline/preparation/decode.py). Their middle is cut out as evaluation did: a model
sees here what it was measured on. A test holds the two together.
"""

import io
import warnings
from collections.abc import Iterator

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFile

from serve.errors import ImageError
from serve.model import image_header
from serve.model.classifier import Pixels
from serve.model.image_header import Header

MAX_PIXELS = 25_000_000
"""Of phones. Such an image takes memory beside its file while it is decoded: a WebP 500 MB if it has alpha and else
410, of which libwebp holds 200; a JPEG of CMYK or a HEIC 310; a PNG with a transparent colour and 16 bits 280, others
220. Measured as the peak of a new process, Pillow 12.3, pillow-heif 1.8."""
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
_TILE = 1024  # pixels

pillow_heif.register_heif_opener()
pillow_heif.options.DECODE_THREADS = 1  # as many images are decoded at once as there are cores
Image.init()  # imports the formats; otherwise the first request waits for that

# Of metadata that Pillow cannot read (a torn EXIF block) and of which no pixel depends; one line of noise in a log.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def decode(
    data: bytes,
    image_px: int,
    resize_px: int | None = None,
    cut_px: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Pixels:
    """A JPEG, PNG, WebP or HEIC file as (image_px, image_px, 3) uint8 RGB.

    Upright by its EXIF orientation, transparency laid over white, of an animation the first frame; the short side
    becomes resize_px (None: cut_px), the long one is cut around its middle, and of that square the middle cut_px (None:
    image_px) are kept, and made smaller to image_px. What the file is named or sent as plays no part.

    Raises ImageError for bytes that are no such file, for a torn one, and, before any pixel is decoded, for more than
    max_pixels.
    """
    header = image_header.read(data)
    if header.width * header.height > max_pixels:
        raise ImageError(
            f"The image has {header.width} x {header.height} pixels, more than the {max_pixels:,} that are decoded "
            "here; make it smaller."
        )
    content = _pixels_alone(data)
    try:
        pixels, turn = _opened(content, header)
        upright = pixels if turn is None else pixels.transpose(turn)
        cut_px = cut_px or image_px
        return _smaller(_centre(_square(upright, resize_px or cut_px), cut_px), image_px)
    # The decoders of foreign bytes raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
    except Exception as error:
        reason = str(error).split(" <")[0] or type(error).__name__  # without the address of a buffer
        raise ImageError(
            f"The {header.kind} file is incomplete or broken ({reason}); send all of it, or save it again."
        ) from error


def _opened(content: bytes, header: Header) -> tuple[Image.Image, Image.Transpose | None]:
    """The pixels in RGB, and how they are to be turned; what was decoded first is let go before they are."""
    with Image.open(io.BytesIO(content), formats=(header.kind,)) as image:
        # A HEIC may be turned and cut after it is decoded; libheif holds it to the size in its header.
        if header.kind != "HEIF" and image.size != (header.width, header.height):
            raise ValueError(f"it has two sizes, {header.width} x {header.height} and {image.width} x {image.height}")
        pixels = _as_rgb(image, _transparent(image, content))
        pixels.load()  # where it is the image itself, while that is open
        return pixels, _turn(image)


def _as_rgb(image: Image.Image, transparent: Image.Image | None) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        rgb = Image.new("RGB", image.size)
        for box in _tiles(image):
            tile = image.crop(box).convert("RGBA")
            rgb.paste(Image.alpha_composite(Image.new("RGBA", tile.size, WHITE), tile).convert("RGB"), box)
        return rgb
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    if transparent is not None:
        rgb.paste(WHITE[:3], mask=transparent)
    return rgb


def _transparent(image: ImageFile.ImageFile, content: bytes) -> Image.Image | None:
    """Where a PNG has the one value that it names as transparent; None where Pillow can tell, or nowhere."""
    kind, key = image.tile[0].args if image.tile else None, image.info.get("transparency")
    if image.format != "PNG" or key is None or kind not in KEYED:
        return None
    del image.info["transparency"]
    if kind != "RGB;16B":
        return _where(image, np.array(key) * KEYED[kind])
    # Pillow keeps the high bytes; taken as little-endian, the pixels give it the low ones.
    high, low = np.divmod(np.array(key), 256)
    mask = _where(image, high)
    with Image.open(io.BytesIO(content), formats=("PNG",)) as other:
        other.tile = [piece._replace(args="RGB;16L") for piece in other.tile]
        return ImageChops.logical_and(mask, _where(other, low))


def _where(image: Image.Image, value: NDArray[np.integer]) -> Image.Image:
    mask = Image.new("1", image.size)
    for box in _tiles(image):
        values = np.asarray(image.crop(box))
        mask.paste(Image.fromarray((values.reshape(*values.shape[:2], -1) == value).all(-1)), box)
    return mask


def _tiles(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes that cover it: what is made of the whole image at once takes its memory once more."""
    for top in range(0, image.height, _TILE):
        for left in range(0, image.width, _TILE):
            yield left, top, min(left + _TILE, image.width), min(top + _TILE, image.height)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How an image that is decoded is turned by its EXIF block; a broken one says nothing."""
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # struct.error, SyntaxError, TypeError, ValueError, ...
        return None


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


def _centre(square: Pixels, cut_px: int) -> Pixels:
    start = round((len(square) - cut_px) / 2)
    return np.ascontiguousarray(square[start : start + cut_px, start : start + cut_px])


def _smaller(pixels: Pixels, image_px: int) -> Pixels:
    # The filter by which students that see less than their teacher are trained and evaluated.
    if len(pixels) == image_px:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((image_px, image_px), Image.Resampling.BILINEAR))


def _square(image: Image.Image, size_px: int) -> Pixels:
    width, height = image.size
    if width == height == size_px:
        return np.asarray(image)
    short = min(width, height)
    left, top = (width - short) / 2, (height - short) / 2
    box = (left, top, left + short, top + short)
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BICUBIC, box=box))
