"""Which format the bytes of an image file have, and whether they end before their image does."""

import io
import re
from typing import Literal

from PIL import Image

_BEGINNINGS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",  # with offsets of 64 bits
    b"MM\0+": "TIFF",
    **{b"P%d%c" % (number, blank): "PPM" for number in range(1, 7) for blank in b" \t\r\n"},
}
EXTENSIONS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".pbm", ".pgm", ".pnm", ".ppm"), "PPM"),
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIF"),
    ".avif": "AVIF",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".png": "PNG",
    ".webp": "WEBP",
}
"""What Pillow calls the format that a file's name says."""
NEEDED = 64
"""So many bytes tell the format of a file."""


def format_of(content: bytes) -> str | None:
    """Pillow's name of the format of a file with this beginning, NEEDED bytes or more; None for any other."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if content[4:8] == b"ftyp":
        return _of_brands(content)
    return next((name for beginning, name in _BEGINNINGS.items() if content.startswith(beginning)), None)


def is_cut(content: bytes) -> bool:
    """Whether a file that cannot be read to its end has bytes missing there, as far as its format tells."""
    kind = format_of(content)
    if kind == "JPEG":  # each scan is followed by another, or by the end mark
        return content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda") or b"\xff\xda" not in content
    if kind == "PNG":
        return b"IEND" not in content
    if kind == "GIF":
        return not content.endswith(b";")
    if kind == "WEBP":
        return int.from_bytes(content[4:8], "little") + 8 > len(content)
    if kind == "BMP":
        return int.from_bytes(content[2:6], "little") > len(content)
    if kind in ("HEIF", "AVIF"):
        return _boxes_end(content) > len(content)
    if kind == "PPM":
        return _raster_end(content) > len(content)
    return kind == "TIFF" and _tiff_end(content) > len(content)


def _raster_end(content: bytes) -> int:
    """How many bytes a PBM, PGM or PPM takes at the least; pixels in digits take one or more each."""
    words = re.sub(rb"#[^\r\n]*", b"", content[:1000]).split()[:4]
    if len(words) < 3 or not all(word.isdigit() for word in words[1:3]):
        return len(content) + 1
    width, height = int(words[1]), int(words[2])
    header = sum(len(word) + 1 for word in (words[:3] if words[0] in (b"P1", b"P4") else words))
    if words[0] == b"P4":
        return header + (width + 7) // 8 * height
    samples = 3 if words[0] in (b"P3", b"P6") else 1
    wide = words[0] in (b"P5", b"P6") and len(words) > 3 and words[3].isdigit() and int(words[3]) > 255
    return header + width * height * samples * (2 if wide else 1)


def _of_brands(content: bytes) -> str | None:
    """HEIF and AVIF are one container; its brands say what is inside."""
    length = int.from_bytes(content[:4])
    brands = {content[8:12], *(content[at : at + 4] for at in range(16, min(length, NEEDED), 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIF" if brands & {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"} else None


def _boxes_end(content: bytes) -> int:
    """Where the last box of the file should end."""
    end = 0
    while end + 8 <= len(content):
        length = int.from_bytes(content[end : end + 4])
        if length == 1:
            length = int.from_bytes(content[end + 8 : end + 16])
        if length < 8:  # 0: to the end of the file, wherever that is
            return len(content)
        end += length
    return max(end, len(content))


def _tiff_end(content: bytes) -> int:
    """Where the last strip or tile of the first picture should end; or where its table should begin."""
    order: Literal["little", "big"] = "little" if content[:2] == b"II" else "big"
    wide = int.from_bytes(content[2:4], order) == 43
    table = int.from_bytes(content[8:16] if wide else content[4:8], order)
    if table >= len(content):
        return table + 1
    try:
        with Image.open(io.BytesIO(content), formats=("TIFF",)) as image:
            tags = image.tag_v2  # type: ignore[attr-defined]  # a TiffImageFile has it
    except Exception:  # whatever the table holds
        return 0
    pieces = zip(tags.get(273) or tags.get(324) or (), tags.get(279) or tags.get(325) or (), strict=False)
    return max((start + length for start, length in pieces), default=0)
