"""From the bytes of an image file to the pixels that a model takes. Thread safe.

What becomes of alpha, palettes, 16 bits, CMYK, orientation and of pictures that are no squares is what `prepare` did to
the images of the data set (pipeline/preparation/decode.py). Their middle is cut out as evaluation did: a model
sees here what it was measured on. A test holds the two together.
"""

import io
import warnings

import numpy as np
import pillow_heif
from PIL import Image, ImageFile

from serve.errors import ImageError
from serve.model import image_header
from serve.model.classifier import Pixels

MAX_PIXELS = 25_000_000  # of phones; a transparent one takes 12 bytes a pixel while it is decoded, 300 MB
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
        with Image.open(io.BytesIO(content), formats=(header.kind,)) as image:
            # A HEIC may be turned and cut after it is decoded; libheif holds it to the size in its header.
            if header.kind != "HEIF" and image.size != (header.width, header.height):
                raise ValueError(
                    f"it has two sizes, {header.width} x {header.height} and {image.width} x {image.height}"
                )
            upright = _upright(image, _as_rgb(image, _opaque(image, content)))
            cut_px = cut_px or image_px
            return _smaller(_centre(_square(upright, resize_px or cut_px), cut_px), image_px)
    # The decoders of foreign bytes raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
    except Exception as error:
        reason = str(error).split(" <")[0] or type(error).__name__  # without the address of a buffer
        raise ImageError(
            f"The {header.kind} file is incomplete or broken ({reason}); send all of it, or save it again."
        ) from error


def _as_rgb(image: Image.Image, opaque: Image.Image | None) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if opaque is not None:
        white = Image.new("RGB", image.size, WHITE[:3])
        white.paste(image.convert("RGB"), mask=opaque)
        return white
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    return image.convert("RGB")


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
