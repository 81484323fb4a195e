"""What an image file says of itself before a pixel is decoded: its kind, its size, the number of its parts.

Read from the bytes, so that neither a file's name nor a decoder has to be trusted: libwebp takes memory for the whole
canvas as soon as it opens a file, and Pillow walks through millions of empty parts in Python.

JPEG: ITU-T T.81, annex B. PNG: https://www.w3.org/TR/png-3/. WebP: RFC 9649. HEIC: ISO/IEC 23008-12.
"""

import struct
from dataclasses import dataclass

from serve.errors import ImageError

EXPECTED = "an image (JPEG, PNG, WebP or HEIC)"
MAX_PARTS = 20_000  # segments of a JPEG, chunks of a PNG: of 16 MB in the 8 kB chunks that encoders write, 2,000
MAX_SCANS = 100  # of a progressive JPEG; encoders write about 10. Each costs a pass over all pixels, and 50 bytes
MAX_PROFILES = 1  # of a PNG, as the format demands. Each may unfold to a megabyte

_OTHERS = {
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"%PDF": "a PDF",
    b"<svg": "an SVG",
    b"\0\0\1\0": "an icon file",
    b"PK\3\4": "a zip archive",
}
_HEVC = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis"})
_AVIF = frozenset({b"avif", b"avis"})


@dataclass(frozen=True)
class Header:
    """What a file announces."""

    kind: str  # "JPEG", "PNG", "WEBP" or "HEIF", as Pillow calls them
    width: int
    height: int


def read(data: bytes) -> Header:
    """The header of an image file. Raises ImageError where it is none, or has more parts than an honest one."""
    if not data:
        raise ImageError(f"Expected {EXPECTED}, but nothing came.")
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
        if (brands := _brands(data)) & _HEVC and not brands & _AVIF:
            return _heif(data)
    except struct.error:
        short = f"The image ends after {len(data)} bytes, before its size is given; send all of it."
        raise ImageError(short) from None
    raise ImageError(f"Expected {EXPECTED}, but this is {_other(data)}.")


def _jpeg(data: bytes) -> Header:
    position, size = 2, None
    for _ in range(MAX_PARTS):
        position = data.find(b"\xff", position)
        (marker, length) = struct.unpack_from(">xBH", data, position if position >= 0 else len(data))
        if marker in (0x00, 0xFF):  # a stuffed byte, padding before a marker
            position += 1
        elif marker == 0xDA:
            break
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            size = struct.unpack_from(">HH", data, position + 5)
            position += 2 + length
        else:
            position += 2 + length
    else:
        raise ImageError(f"The JPEG has more than {MAX_PARTS:,} segments before its pixels; save it again.")
    if size is None:
        raise ImageError("The JPEG has pixels without a size; save it again.")
    # Between scans 0xff is followed by another byte, so this counts them, and those of a thumbnail or two.
    if data.count(b"\xff\xda") > MAX_SCANS:
        raise ImageError(f"The JPEG has more than {MAX_SCANS} scans; save it again.")
    return Header("JPEG", size[1], size[0])


def _png(data: bytes) -> Header:
    (kind, width, height) = struct.unpack_from(">4x4sII", data, 8)
    if kind != b"IHDR":
        raise ImageError(f"The PNG begins with {kind!r} where its size should be; save it again.")
    position, profiles = 8, 0
    for _ in range(MAX_PARTS):
        if position + 8 > len(data):  # cut short, or no end mark: for the decoder to say
            return Header("PNG", width, height)
        (length, kind) = struct.unpack_from(">I4s", data, position)
        profiles += kind == b"iCCP"
        if profiles > MAX_PROFILES:
            raise ImageError("The PNG has more than one colour profile; save it again.")
        position += 12 + length
    raise ImageError(f"The PNG has more than {MAX_PARTS:,} chunks; save it again.")


def _webp(data: bytes) -> Header:
    kind = data[12:16]
    if kind == b"VP8X":
        (width, width_high, height, height_high) = struct.unpack_from("<HBHB", data, 24)
        return Header("WEBP", (width | width_high << 16) + 1, (height | height_high << 16) + 1)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header("WEBP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 ":
        (width, height) = struct.unpack_from("<HH", data, 26)
        return Header("WEBP", width & 0x3FFF, height & 0x3FFF)
    raise ImageError(f"The WebP begins with {kind!r} where its size should be; save it again.")


def _heif(data: bytes) -> Header:
    """Of the largest picture in the file, which is put together from tiles, each with a size of its own."""
    sizes: list[tuple[int, int]] = []
    position = data.find(b"ispe")
    while position >= 0 and len(sizes) < MAX_PARTS:
        sizes.append(struct.unpack_from(">II", data, position + 8))
        position = data.find(b"ispe", position + 4)
    if not sizes or len(sizes) == MAX_PARTS:
        raise ImageError(f"The HEIC gives {'no size' if not sizes else 'too many sizes'}; save it again.")
    return Header("HEIF", *max(sizes, key=lambda size: size[0] * size[1]))


def _brands(data: bytes) -> set[bytes]:
    """What an ISO media file says that it is; of any other file, nothing."""
    end = min(int.from_bytes(data[:4]), 256) if data[4:8] == b"ftyp" else 0
    return {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))} if end else set()


def _other(data: bytes) -> str:
    """What the bytes are, if that can be told, else how they begin."""
    if brands := _brands(data):
        return "an AVIF" if brands & _AVIF else "a film or an image of another kind"
    for beginning, name in _OTHERS.items():
        if data.startswith(beginning):
            return name
    return f"something that begins with {data[:16]!r}"
