"""Small image files of every kind that people have, drawn here, each with the pixels that a person sees."""

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image

pillow_heif.register_heif_opener()
WIDTH, HEIGHT = 24, 16


@dataclass(frozen=True)
class Animal:
    """One file."""

    content: bytes
    expected: NDArray[np.uint8]
    """(HEIGHT, WIDTH, 3)"""
    tolerance: int = 0
    """Of formats that lose something."""
    suffix: str = ".png"


def colours() -> NDArray[np.uint8]:
    """(HEIGHT, WIDTH, 3), smooth, so that lossy formats keep it."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 10, y * 15, 255 - x * 5 - y * 5], -1).astype(np.uint8)


def wide() -> NDArray[np.uint16]:
    """The same with 16 bits, of which the low ones are not those of a smaller depth."""
    return colours().astype(np.uint16) * 256 + np.arange(WIDTH, dtype=np.uint16)[:, None] * 7


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(depth: int, kind: int, rows: NDArray[np.uint8], *more: bytes, after: bytes = b"") -> bytes:
    """A PNG of packed rows (HEIGHT, bytes)."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, kind, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes()))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + body + after + chunk(b"IEND", b"")


def big_endian(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(values.astype(">u2")).view(np.uint8).reshape(HEIGHT, -1)


def saved(pixels: NDArray[np.uint8] | Image.Image, kind: str, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.convert(mode).save(file, kind, **options)  # type: ignore[arg-type]  # options of any format
    return file.getvalue()


def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """A block of (tag, type, count, four bytes of value)."""
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + body + b"\0\0\0\0"


def grey_pngs() -> dict[str, Animal]:
    """Grey of every depth, plain and with one value that is transparent."""
    found = {}
    for depth in (1, 2, 4, 8, 16):
        most = 2**depth - 1
        values = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 7919) % (most + 1)
        if depth == 16:
            rows, seen = big_endian(values.astype(np.uint16)), values >> 8
        else:
            bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
            rows, seen = np.packbits(bits.reshape(HEIGHT, -1), axis=1), values * (255 // most)
        expected = np.repeat(seen[..., None], 3, -1).astype(np.uint8)
        key = int(values[3, 5])
        keyed = np.where((values == key)[..., None], np.uint8(255), expected)
        found[f"grey {depth}"] = Animal(png(depth, 0, rows), expected)
        found[f"grey {depth} keyed"] = Animal(png(depth, 0, rows, chunk(b"tRNS", struct.pack(">H", key))), keyed)
    return found


def more_pngs() -> dict[str, Animal]:
    rgb, deep = colours(), wide()
    flat, high = rgb.reshape(HEIGHT, -1), (deep >> 8).astype(np.uint8)
    keyed, keyed_deep = rgb.copy(), high.copy()
    keyed[3, 5] = keyed_deep[3, 5] = 255
    # Beside it, a pixel that has its high bytes alone.
    deep[3, 6] = deep[3, 5] ^ 1
    high[3, 6] = keyed_deep[3, 6] = deep[3, 6] >> 8
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    alpha[3, 5] = 0
    grey = rgb[..., :1]
    seen = np.where(alpha == 0, np.uint8(255), np.repeat(grey, 3, -1))
    index = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 16).astype(np.uint8)
    palette = np.random.default_rng(0).integers(0, 256, (16, 3), dtype=np.uint8)
    see_through = palette.copy()
    see_through[2] = 255
    plte = chunk(b"PLTE", palette.tobytes())
    text = b"Comment\0\0" + zlib.compress(bytes(8_000_000))
    profile = b"wide\0\0" + zlib.compress(bytes(3_000_000))
    turn = exif((0x0112, 3, 1, struct.pack("<HH", 3, 0)), (0x011A, 2, 4, b"abc\0"))[6:]
    return {
        "rgb": Animal(png(8, 2, flat), rgb),
        "rgb keyed": Animal(png(8, 2, flat, chunk(b"tRNS", rgb[3, 5].astype(">u2").tobytes())), keyed),
        "rgb 16": Animal(png(16, 2, big_endian(deep)), high),
        "rgb 16 keyed": Animal(
            png(16, 2, big_endian(deep), chunk(b"tRNS", deep[3, 5].astype(">u2").tobytes())), keyed_deep
        ),
        "rgba": Animal(png(8, 6, np.concatenate([rgb, alpha], -1).reshape(HEIGHT, -1)), keyed),
        "rgba 16": Animal(png(16, 6, big_endian(np.concatenate([rgb, alpha], -1).astype(np.uint16) * 257)), keyed),
        "grey and alpha": Animal(png(8, 4, np.concatenate([grey, alpha], -1).reshape(HEIGHT, -1)), seen),
        "grey and alpha 16": Animal(
            png(16, 4, big_endian(np.concatenate([grey, alpha], -1).astype(np.uint16) * 257)), seen
        ),
        "palette": Animal(png(8, 3, index, plte), palette[index]),
        "palette, transparent": Animal(png(8, 3, index, plte, chunk(b"tRNS", b"\xff\xff\0")), see_through[index]),
        "much text": Animal(png(8, 2, flat, chunk(b"zTXt", text)), rgb),
        "much text behind": Animal(png(8, 2, flat, after=chunk(b"zTXt", text)), rgb),
        "large profile": Animal(png(8, 2, flat, chunk(b"iCCP", profile)), rgb),
        "turned": Animal(png(8, 2, flat, chunk(b"eXIf", turn)), rgb[::-1, ::-1]),
        "animated": Animal(saved(rgb, "PNG", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))]), rgb),
    }


def photographs() -> dict[str, Animal]:
    rgb = colours()
    lying = Image.fromarray(rgb).transpose(Image.Transpose.ROTATE_90)
    turn = (0x0112, 3, 1, struct.pack("<HH", 6, 0))
    broken = {
        "sound": exif(turn),
        "text as resolution": exif(turn, (0x011A, 2, 4, b"abc\0")),
        "sign beyond range": exif(turn, (0x0128, 9, 1, struct.pack("<i", -1))),
        "text as width": exif((0x0100, 2, 4, b"wid\0"), turn),
    }
    ycck = bytearray(saved(rgb, "JPEG", "CMYK", quality=95))
    jpegs: dict[str, tuple[bytes, int]] = {
        "jpeg": (saved(rgb, "JPEG", quality=95, subsampling=0), 12),
        "progressive": (saved(rgb, "JPEG", quality=95, subsampling=0, progressive=True), 12),
        "cmyk": (bytes(ycck), 24),
        "mpo": (saved(rgb, "MPO", quality=95, save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))]), 24),
        **{
            f"jpeg turned, {name}": (saved(lying, "JPEG", quality=95, subsampling=0, exif=block), 12)
            for name, block in broken.items()
        },
        "jpeg with torn EXIF": (saved(rgb, "JPEG", quality=95, subsampling=0, exif=b"Exif\0\0II*\0\x08\0\0\0\x09"), 12),
    }
    heic = {
        "heic": saved(rgb, "HEIF", quality=-1),
        "heic turned": saved(lying, "HEIF", quality=-1, exif=exif(turn)),
        "heic of several": saved(
            rgb, "HEIF", quality=-1, save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))]
        ),
    }
    webp = {
        "webp": Animal(saved(rgb, "WEBP", lossless=True), rgb, 0, ".webp"),
        "webp animated": Animal(
            saved(rgb, "WEBP", lossless=True, save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))]),
            rgb,
            0,
            ".webp",
        ),
    }
    return {
        **{name: Animal(content, rgb, tolerance, ".jpg") for name, (content, tolerance) in jpegs.items()},
        **{name: Animal(content, rgb, 12, ".heic") for name, content in heic.items()},
        **webp,
    }


def prepared_alone() -> dict[str, Animal]:
    """What prepare reads and the server does not."""
    rgb, deep = colours(), wide()
    high = (deep >> 8).astype(np.uint8)
    grey = np.repeat(high[..., :1], 3, -1)
    header = f"{WIDTH} {HEIGHT} 65535\n".encode()
    index = Image.fromarray(rgb).quantize(16)
    bits = np.packbits(rgb[..., 0] < 128, axis=1)
    return {
        "pgm 16": Animal(b"P5 " + header + deep[..., 0].astype(">u2").tobytes(), grey, 0, ".pgm"),
        "ppm 16": Animal(b"P6 " + header + deep.astype(">u2").tobytes(), high, 1, ".ppm"),
        "pbm": Animal(
            b"P4\n%d %d\n" % (WIDTH, HEIGHT) + bits.tobytes(),
            np.repeat(np.where(rgb[..., :1] < 128, 0, 255), 3, -1).astype(np.uint8),
            0,
            ".pbm",
        ),
        "tiff": Animal(saved(rgb, "TIFF"), rgb, 0, ".tif"),
        "tiff packed": Animal(saved(rgb, "TIFF", compression="tiff_lzw"), rgb, 0, ".tiff"),
        "big tiff": Animal(saved(rgb, "TIFF", big_tiff=True), rgb, 0, ".tif"),
        "tiff 16": Animal(saved(Image.fromarray(deep[..., 0].copy()), "TIFF", "I;16"), grey, 0, ".tif"),
        "cmyk tiff": Animal(saved(rgb, "TIFF", "CMYK"), rgb, 1, ".tif"),
        "gif": Animal(saved(index, "GIF", "P"), np.asarray(index.convert("RGB")), 0, ".gif"),
        "bmp": Animal(saved(rgb, "BMP"), rgb, 0, ".bmp"),
        "avif": Animal(saved(rgb, "AVIF", quality=100), rgb, 12, ".avif"),
    }


SERVED = {**grey_pngs(), **more_pngs(), **photographs()}
PREPARED = {**SERVED, **prepared_alone()}
