"""From the bytes of an image file to the pixels that a model takes. Thread safe.

What becomes of alpha, palettes, 16 bits, CMYK, orientation and of pictures that are no squares is what `prepare` did to
the images of the data set (pipeline/preparation/decode.py). Their middle is cut out as evaluation did: a model
sees here what it was measured on. A test holds the two together.
"""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

from serve.errors import ImageError
from serve.model import image_header
from serve.model.classifier import Pixels

MAX_PIXELS = 25_000_000  # of phones; a transparent one takes 12 bytes a pixel while it is decoded, 300 MB
WHITE = (255, 255, 255, 255)

Image.init()  # imports the formats; otherwise the first request waits for that

# Of metadata that Pillow cannot read (a torn EXIF block) and of which no pixel depends; one line of noise in a log.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def decode(data: bytes, image_px: int, resize_px: int | None = None, max_pixels: int = MAX_PIXELS) -> Pixels:
    """A JPEG, PNG or WebP file as (image_px, image_px, 3) uint8 RGB.

    Upright by its EXIF orientation, transparency laid over white, of an animation the first frame; the short side
    becomes resize_px (None: image_px), the long one is cut around its middle, and of that square the middle image_px
    are kept. What the file is named or sent as plays no part.

    Raises ImageError for bytes that are no such file, for a torn one, and, before any pixel is decoded, for more than
    max_pixels.
    """
    header = image_header.read(data)
    if header.width * header.height > max_pixels:
        raise ImageError(
            f"The image has {header.width} x {header.height} pixels, more than the {max_pixels:,} that are decoded "
            "here; make it smaller."
        )
    try:
        with Image.open(io.BytesIO(data), formats=(header.kind,)) as image:
            if image.size != (header.width, header.height):
                raise ValueError(
                    f"it has two sizes, {header.width} x {header.height} and {image.width} x {image.height}"
                )
            ImageOps.exif_transpose(image, in_place=True)
            return _centre(_square(_rgb(image), resize_px or image_px), image_px)
    # The decoders of foreign bytes raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
    except Exception as error:
        reason = str(error).split(" <")[0] or type(error).__name__  # without the address of a buffer
        raise ImageError(
            f"The {header.kind} file is incomplete or broken ({reason}); send all of it, or save it again."
        ) from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    if image.mode.startswith("I;16"):  # Pillow would clip at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _centre(square: Pixels, image_px: int) -> Pixels:
    start = round((len(square) - image_px) / 2)
    return np.ascontiguousarray(square[start : start + image_px, start : start + image_px])


def _square(image: Image.Image, size_px: int) -> Pixels:
    width, height = image.size
    if width == height == size_px:
        return np.asarray(image)
    short = min(width, height)
    left, top = (width - short) / 2, (height - short) / 2
    box = (left, top, left + short, top + short)
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BICUBIC, box=box))
