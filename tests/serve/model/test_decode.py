"""serve.model.decode: every kind of picture as the pipeline sees it, and one clear sentence for what is none."""

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from pipeline.data.arrays import Split
from pipeline.preparation import decode as pipeline_decode
from serve.errors import ImageError, InputError
from serve.model import image_header
from serve.model.decode import MAX_PIXELS, decode

RED = (255, 0, 0)


def noise(width: int = 40, height: int = 28, mode: str = "RGB") -> Image.Image:
    """A picture with detail of every size, so that another filter or another cut would show."""
    values = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    values[: height // 2, :, 0] = np.linspace(0, 255, width, dtype=np.uint8)
    return Image.fromarray(values, "RGBA" if mode == "RGBA" else None).convert(mode)


def stored(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)  # type: ignore[arg-type]  # options of any format
    return file.getvalue()


def turned(orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return stored(noise(), kind, exif=exif)


def sixteen_bits() -> bytes:
    return stored(Image.fromarray(np.random.default_rng(1).integers(0, 2**16, (20, 31), dtype=np.uint16)))


def see_through_palette() -> bytes:
    image = noise().quantize(16)
    return stored(image, transparency=3)


def animation(kind: str) -> bytes:
    return stored(noise(), kind, save_all=True, append_images=[Image.new("RGB", (40, 28), RED)])


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def box(kind: bytes, content: bytes = b"") -> bytes:
    """Of a HEIC."""
    return struct.pack(">I4s", 8 + len(content), kind) + content


HEIC = box(b"ftyp", b"heic\0\0\0\0mif1")
SIZE = box(b"ispe", struct.pack(">III", 0, 40, 30))


def two_pictures() -> bytes:
    """As cameras with two lenses write them."""
    return stored(noise(), "MPO", save_all=True, append_images=[Image.new("RGB", (40, 28), RED)])


FILM = b"\0\0\0\x18ftypmp42" + b"\xff\xda\0\2" * 500
"""In which bytes stand that would begin scans."""


PICTURES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: stored(noise(), "JPEG"),
    "progressive jpeg": lambda: stored(noise(), "JPEG", progressive=True),
    "grey jpeg": lambda: stored(noise(mode="L"), "JPEG"),
    "cmyk jpeg": lambda: stored(noise(mode="CMYK"), "JPEG"),
    "two pictures": two_pictures,
    "motion photo": lambda: stored(noise(), "JPEG") + FILM,
    "png": lambda: stored(noise()),
    "grey png": lambda: stored(noise(mode="L")),
    "black and white png": lambda: stored(noise(mode="1")),
    "16 bits": sixteen_bits,
    "alpha png": lambda: stored(noise(mode="RGBA")),
    "grey and alpha": lambda: stored(noise(mode="RGBA").convert("LA")),
    "palette": lambda: stored(noise().quantize(16)),
    "see-through palette": see_through_palette,
    "animated png": lambda: animation("PNG"),
    "webp": lambda: stored(noise(), "WEBP"),
    "lossless webp": lambda: stored(noise(), "WEBP", lossless=True),
    "alpha webp": lambda: stored(noise(mode="RGBA"), "WEBP"),
    "animated webp": lambda: animation("WEBP"),
    "upright": lambda: stored(noise(17, 50)),
    "already right": lambda: stored(noise(16, 16)),
    "one pixel": lambda: stored(noise(1, 1)),
    "a line": lambda: stored(noise(900, 1)),
    **{f"jpeg turned {n}": lambda n=n: turned(n, "JPEG") for n in range(1, 9)},  # type: ignore[misc]
    "png turned": lambda: turned(6, "PNG"),
    "webp turned": lambda: turned(6, "WEBP"),
}


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize(
    ("image_px", "resize_px", "cut_px"),
    [(16, None, None), (64, None, None), (16, 19, None), (9, 19, 16), (8, None, 16)],
)
def test_the_server_sees_what_evaluation_saw(
    name: str, image_px: int, resize_px: int | None, cut_px: int | None
) -> None:
    data = PICTURES[name]()
    pixels = decode(data, image_px, resize_px, cut_px)
    stored = pipeline_decode.square(pipeline_decode.rgb(io.BytesIO(data), name), resize_px or cut_px or image_px)
    split = Split(stored[None], np.zeros(1, np.int64), cut_px or image_px, image_px if cut_px else None)
    (expected,) = split.central_reader()(np.array([0]))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (image_px, image_px, 3)
    np.testing.assert_array_equal(pixels, expected)


def keyed_16_bits(width: int, height: int) -> bytes:
    """Of which every eighth pixel has the transparent colour, and others only its high or its low bytes."""
    generator = np.random.default_rng(0)
    rows = generator.choice(np.array([0x0102, 0x0103, 0x0202, 0x0102], ">u2"), (height, width, 3)).view(np.uint8)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows), 1)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", b"\1\2" * 3), (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


@pytest.mark.parametrize("size", [(1100, 1030), (1025, 2), (2, 1025)])
@pytest.mark.parametrize(
    "make",
    [
        keyed_16_bits,
        lambda *size: stored(noise(*size, "RGBA"), compress_level=1),
        lambda *size: stored(noise(*size).quantize(16), transparency=3),
    ],
    ids=["16 bits and a transparent colour", "alpha", "see-through palette"],
)
def test_large_pictures_are_put_together_from_tiles(make: Callable[..., bytes], size: tuple[int, int]) -> None:
    data, short = make(*size), min(size)
    expected = pipeline_decode.rgb(io.BytesIO(data), "large")
    assert 0 < (expected == 255).all(-1).mean() < 1
    np.testing.assert_array_equal(decode(data, short), pipeline_decode.square(expected, short))


def test_alpha_is_laid_over_white_and_orientation_applied() -> None:
    assert (decode(stored(Image.new("RGBA", (3, 3), (0, 0, 0, 0))), 3) == 255).all()
    image = Image.new("RGB", (2, 2))
    image.putpixel((0, 0), RED)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise brings the first pixel to the right
    assert decode(stored(image, exif=exif), 2)[0, 1].tolist() == list(RED)


def test_of_an_animation_the_first_frame_is_taken() -> None:
    still = decode(stored(noise(), "WEBP", lossless=True), 16)
    file = io.BytesIO()
    noise().save(file, "WEBP", lossless=True, save_all=True, append_images=[Image.new("RGB", (40, 28), RED)])
    np.testing.assert_array_equal(decode(file.getvalue(), 16), still)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_torn_metadata_do_not_cost_the_picture() -> None:
    torn = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0"
    np.testing.assert_array_equal(decode(stored(noise(), "JPEG", exif=torn), 16), decode(stored(noise(), "JPEG"), 16))


def bomb(width: int = 30_000, height: int = 30_000) -> bytes:
    """A PNG that is small as a file, black all over, and never built as pixels."""
    squeeze = zlib.compressobj(9)
    row = bytes(1 + width // 8)
    body = b"".join(squeeze.compress(row) for _ in range(height)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def large_webp() -> bytes:
    data = bytearray(stored(noise(mode="RGBA"), "WEBP"))
    assert data[12:16] == b"VP8X"
    data[24:30] = b"\xff\x3f\0\xff\x3f\0"  # 16,384 x 16,384
    return bytes(data)


def many_scans(before_each: bytes = b"") -> bytes:
    data = stored(noise(), "JPEG", progressive=True)
    last = data[data.rfind(b"\xff\xda") : -2]
    return data[:-2] + (before_each + last) * 200 + data[-2:]


HIDING = {
    "an end in a comment": b"\xff\xfe\0\4\xff\xd9",
    "an end in a comment behind padding": b"\0\xff\xff\xff\xfe\0\4\xff\xd9",
    "a restart with a length": b"\xff\xd3\xff\xff",
    "a marker that stands alone with a length": b"\xff\1\xff\xff",
    "a reserved marker with a length": b"\xff\x02\xff\xff",
    "an empty segment": b"\xff\xfe\0\0",
    "bytes of no meaning": b"\0" * 10_000,
}


def before_pixels(many: bytes) -> bytes:
    data = stored(noise(), "JPEG")
    return data[:2] + many + data[2:]


def after_header(*chunks: bytes) -> bytes:
    data = stored(noise())
    return data[:33] + b"".join(chunks) + data[33:]


def cut(kind: str, share: float) -> Callable[[], bytes]:
    def make() -> bytes:
        data = stored(noise(64, 64), kind)
        return data[: int(share * len(data))]

    return make


def huge_jpeg() -> bytes:
    data = bytearray(stored(noise(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    return bytes(data)


def two_sizes() -> bytes:
    data = stored(noise(), "JPEG")
    at = data.index(b"\xff\xc0")
    segment = bytearray(data[at : at + 2 + int.from_bytes(data[at + 2 : at + 4])])
    segment[5:9] = b"\xff\xff\xff\xff"
    return data[:at] + bytes(segment) + data[at:]


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "Expected an image (JPEG, PNG, WebP or HEIC), but nothing came."),
    "text": (lambda: b"hello, world\n", r"this is something that begins with b'hello, world\n'."),
    "gif": (lambda: stored(noise(), "GIF"), "Expected an image (JPEG, PNG, WebP or HEIC), but this is a GIF."),
    "bmp": (lambda: stored(noise(), "BMP"), "this is a BMP."),
    "tiff": (lambda: stored(noise(), "TIFF"), "this is a TIFF."),
    "heic": (lambda: b"\0\0\0\x18ftypheic" + bytes(99), "The HEIC gives no size; save it again."),
    "heic of many boxes": (lambda: HEIC + box(b"free") * 30_000, "The HEIC has more than 20,000 boxes; save it again."),
    "heic with a size elsewhere": (lambda: HEIC + box(b"mdat", SIZE), "The HEIC gives no size; save it again."),
    "svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "this is an SVG."),
    "png bomb": (bomb, "has 30000 x 30000 pixels, more than the 25,000,000 that are decoded here; make it smaller."),
    "jpeg bomb": (huge_jpeg, "has 65535 x 65535 pixels"),
    "webp bomb": (large_webp, "has 16384 x 16384 pixels"),
    "two sizes": (two_sizes, "The JPEG file is incomplete or broken"),
    "many scans": (many_scans, "The JPEG has more than 100 scans; save it again."),
    **{
        f"many scans, {name}": (lambda hiding=hiding: many_scans(hiding), "more than 100 scans")  # type: ignore[misc]
        for name, hiding in HIDING.items()
    },
    "many segments": (
        lambda: before_pixels(b"\xff\xfe\0\2" * 30_000),
        "The JPEG has more than 20,000 segments or bytes",
    ),
    "much padding": (lambda: before_pixels(b"\xff" * 30_000), "The JPEG has more than 20,000 segments"),
    "many restarts": (lambda: before_pixels(b"\xff\xd0" * 30_000), "The JPEG has more than 20,000 segments"),
    "an end before the pixels": (lambda: before_pixels(b"\xff\xd9"), "The JPEG ends or begins again before its pixels"),
    "a start before the pixels": (lambda: before_pixels(b"\xff\xd8"), "The JPEG ends or begins again before its"),
    "many chunks": (lambda: after_header(chunk(b"tEXt", b"") * 30_000), "The PNG has more than 20,000 chunks"),
    "two profiles": (lambda: after_header(*[chunk(b"iCCP", b"x")] * 2), "more than one colour profile"),
    "no size": (lambda: b"\xff\xd8\xff\xda\0\2", "The JPEG has pixels without a size; save it again."),
    "png without IHDR": (lambda: stored(noise())[:8] + chunk(b"IDAT", bytes(13)), "begins with b'IDAT'"),
    "no width": (lambda: bomb(0, 5), "The PNG file is incomplete or broken"),
    "unknown webp": (lambda: b"RIFF\x20\0\0\0WEBPVP9 " + bytes(20), "The WebP begins with b'VP9 '"),
    "wrong checksum": (
        lambda: stored(noise())[:60] + b"\0\0\0\0" + stored(noise())[64:],
        "PNG file is incomplete or broken",
    ),
    "only a signature": (lambda: b"\x89PNG\r\n\x1a\n", "The image ends after 8 bytes, before its size is given"),
    "jpeg head": (cut("JPEG", 0.05), "before its pixels; send all of it."),
    "half a jpeg": (cut("JPEG", 0.5), "The JPEG file is incomplete or broken (image file is truncated"),
    "most of a jpeg": (cut("JPEG", 0.95), "The JPEG file is incomplete or broken (image file is truncated"),
    "half a png": (cut("PNG", 0.5), "The PNG file is incomplete or broken (image file is truncated"),
    "half a webp": (cut("WEBP", 0.5), "The WEBP file is incomplete or broken"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_clear_sentence_and_no_memory_for_what_is_no_image(name: str) -> None:
    make, complaint = BAD[name]
    data = make()
    tracemalloc.start()
    try:
        with pytest.raises(ImageError) as error:
            decode(data, 16)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(error.value)
    assert complaint in message
    assert "\n" not in message
    assert "0x" not in message
    assert len(message) < 200
    assert peak < 10_000_000
    assert isinstance(error.value, InputError)  # what a server answers with 400


def test_the_limit_is_on_the_product_and_is_reached() -> None:
    side = 5000
    assert side * side == MAX_PIXELS
    assert decode(stored(Image.new("1", (side, side))), 8).max() == 0
    assert decode(stored(noise(10, 10)), 8, max_pixels=100).shape == (8, 8, 3)
    with pytest.raises(ImageError, match="11 x 10 pixels, more than the 100"):
        decode(stored(noise(11, 10)), 8, max_pixels=100)


@pytest.mark.parametrize("name", PICTURES)
def test_headers_say_what_pillow_says(name: str) -> None:
    data = PICTURES[name]()
    header = image_header.read(data)
    with Image.open(io.BytesIO(data)) as image:
        assert (header.width, header.height) == image.size


@pytest.mark.parametrize(
    "boxes",
    [
        box(b"mdat", b"ispe" + b"\xff" * 40) + box(b"meta", SIZE),
        box(b"mdat", SIZE.replace(b"\x1e", b"\xee")) + box(b"meta", SIZE),
        struct.pack(">I4sQ", 1, b"mdat", 16 + 44) + b"ispe" + b"\xff" * 40 + box(b"meta", SIZE),
        struct.pack(">I4sQ", 1, b"meta", 16 + len(SIZE)) + SIZE + box(b"mdat", b"ispe" + b"\xff" * 40),
        struct.pack(">I4s", 0, b"meta") + SIZE,
        box(b"meta", SIZE) + struct.pack(">I4s", 0, b"mdat") + b"ispe" + b"\xff" * 40,
        box(b"meta", SIZE) + struct.pack(">I4s", 3, b"meta") + b"ispe" + b"\xff" * 40,
    ],
    ids=[
        "bytes of pixels",
        "a size among pixels",
        "a long box before",
        "a long box",
        "to the end",
        "pixels to the end",
        "no box",
    ],
)
def test_the_size_of_a_heic_stands_in_its_metadata(boxes: bytes) -> None:
    header = image_header.read(HEIC + boxes)
    assert (header.width, header.height) == (40, 30)


def test_a_marker_is_found_where_one_block_ends_and_the_next_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_header, "_BLOCK", 1)
    assert image_header.read(stored(noise(), "JPEG")).width == 40
    with pytest.raises(ImageError, match="more than 100 scans"):
        image_header.read(many_scans())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_bytes_at_random_places_never_raise_anything_else(kind: str) -> None:
    whole = stored(noise(24, 24, "RGBA" if kind == "WEBP" else "RGB"), kind)
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(600):
        data = np.frombuffer(whole, np.uint8).copy()
        places = generator.integers(0, min(len(data), 400), generator.integers(1, 5))
        data[places] = generator.integers(0, 256, len(places))
        try:
            assert decode(data.tobytes(), 8).shape == (8, 8, 3)
        except ImageError:
            refused += 1
    assert refused > 50
