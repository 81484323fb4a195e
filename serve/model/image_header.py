"""What an image file says of itself before a pixel is decoded: its kind, its size, the number of its parts.

Read from the bytes, so that neither a file's name nor a decoder has to be trusted: libwebp takes memory for the whole
canvas as soon as it opens a file, and Pillow walks through millions of empty parts in Python.

JPEG: ITU-T T.81, annex B. PNG: https://www.w3.org/TR/png-3/. WebP: RFC 9649. HEIC: ISO/IEC 23008-12.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from serve.errors import ImageError

EXPECTED = "an image (JPEG, PNG, WebP or HEIC)"
MAX_PARTS = 20_000  # segments of a JPEG, chunks of a PNG, boxes of a HEIC; 16 MB in chunks as encoders write have 2,000
MAX_SCANS = 100  # of a progressive JPEG; encoders write about 10. Each costs a pass over all pixels, and 50 bytes
MAX_PROFILES = 1  # of a PNG, as the format demands. Each may unfold to a megabyte

# What begins a segment with a length. Others stand between scans, in their pixels, or alone, as libjpeg reads them: it
# looks for the next marker behind a restart, and behind those below 0xc0, whatever a length there would say.
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
_ENDS = (b"\xff\xd9", b"\xff\xd8")  # an end, and a second start, at which decoders give up
_BLOCK = 2**20  # bytes that are searched at once, 6 ms at the worst in which no other thread runs

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
    """Of the picture alone: phones append a film, or a second picture, behind its end."""
    position, size, scans, parts = 2, None, 0, 0
    while (found := _next_marker(data, position)) is not None and found[0] not in _ENDS:
        parts += 1 if scans else 1 + found.start() - position  # Pillow takes a step for each byte that it skips
        if parts > MAX_PARTS:
            raise ImageError(f"The JPEG has more than {MAX_PARTS:,} segments or bytes between them; save it again.")
        (marker, start) = (found[0][1], found.end())
        if marker == 0xDA:
            scans += 1
            if size is None:
                raise ImageError("The JPEG has pixels without a size; save it again.")
            if scans > MAX_SCANS:
                raise ImageError(f"The JPEG has more than {MAX_SCANS} scans; save it again.")
        elif scans == 0 and 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            size = struct.unpack_from(">HH", data, start + 3)
        position = start + int.from_bytes(data[start : start + 2])  # beyond the end where the file is cut
    if scans == 0 and found is not None:
        raise ImageError("The JPEG ends or begins again before its pixels; save it again.")
    if size is None or scans == 0:
        raise ImageError(f"The image ends after {len(data)} bytes, before its pixels; send all of it.")
    return Header("JPEG", size[1], size[0])


def _next_marker(data: bytes, position: int) -> re.Match[bytes] | None:
    for start in range(position, len(data), _BLOCK):
        if found := _MARKER.search(data, start, start + _BLOCK + 1):  # a marker may begin in a block's last byte
            return found
    return None


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
    for box in _metadata(data):
        position = box.find(b"ispe")
        while position >= 0 and len(sizes) < MAX_PARTS:
            sizes.append(struct.unpack_from(">II", box, position + 8))
            position = box.find(b"ispe", position + 4)
    if not sizes or len(sizes) == MAX_PARTS:
        raise ImageError(f"The HEIC gives {'no size' if not sizes else 'too many sizes'}; save it again.")
    return Header("HEIF", *max(sizes, key=lambda size: size[0] * size[1]))


def _metadata(data: bytes) -> Iterator[bytes]:
    """The outermost boxes of metadata; others hold compressed pixels, in which any bytes may stand."""
    position = 0
    for _ in range(MAX_PARTS):
        if position + 8 > len(data):
            return
        (size, kind) = struct.unpack_from(">I4s", data, position)
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, position + 8)
        end = position + size if size else len(data)
        if end < position + 8:  # for the decoder to say
            return
        if kind == b"meta":
            yield data[position:end]
        position = end
    raise ImageError(f"The HEIC has more than {MAX_PARTS:,} boxes; save it again.")


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
