"""Image files of every kind come out as upright RGB; pixels of every shape come out square."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.preparation import decode
from pipeline.preparation.decode import BadImageError

RED, WHITE, BLACK = [255, 0, 0], [255, 255, 255], [0, 0, 0]


def stored(image: Image.Image, kind: str = "PNG", **options: object) -> io.BytesIO:
    """The image as a file of that kind."""
    file = io.BytesIO()
    image.save(file, kind, **options)  # type: ignore[arg-type]  # options of any format
    file.seek(0)
    return file


def test_grey_becomes_three_equal_channels() -> None:
    pixels = decode.rgb(stored(Image.new("L", (2, 3), 77)), "x")
    assert pixels.shape == (3, 2, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == 77).all()


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    grey = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    pixels = decode.rgb(stored(Image.fromarray(grey)), "x")
    assert pixels[0, :, 0].tolist() == [0, 1, 128, 255]


def tiff(bits: int, photometric: int, strip: bytes, size: int = 4) -> io.BytesIO:
    """Grey of size x size pixels as a little-endian, uncompressed TIFF; Pillow writes neither of what is asked for."""
    short, long, end = 3, 4, 8 + len(strip)
    tags = (
        *((256, long, size), (257, long, size), (258, short, bits), (259, short, 1), (262, short, photometric)),
        *((273, long, 8), (277, short, 1), (278, long, size), (279, long, len(strip))),
    )
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return io.BytesIO(b"II*\0" + struct.pack("<I", end) + strip + directory)


@pytest.mark.parametrize(
    ("bits", "photometric", "stored", "expected"),
    [(12, 1, 0xFFF, 255), (12, 1, 0x800, 128), (16, 1, 0xFFFF, 255), (16, 0, 0xFFFF, 0)],
)
def test_a_tiff_says_how_many_bits_are_white_and_whether_0_is(
    bits: int, photometric: int, stored: int, expected: int
) -> None:
    strip = stored.to_bytes(2, "little") * 16
    if bits == 12:  # two pixels in three bytes
        strip = (stored << 12 | stored).to_bytes(3, "big") * 8
    assert np.unique(decode.rgb(tiff(bits, photometric, strip), "x")).tolist() == [expected]


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA", "P"])
def test_transparent_pixels_are_laid_over_white(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    if mode == "P":
        image = Image.new("P", (2, 1))
        image.putpalette([*BLACK, *RED])
        image.putpixel((1, 0), 1)
        pixels = decode.rgb(stored(image, transparency=1), "x")
    elif mode == "PA":
        pixels = decode.rgb(stored(image, "GIF"), "x")
    else:
        pixels = decode.rgb(stored(image.convert(mode)), "x")
    assert pixels[0].tolist() == [BLACK, WHITE]


def test_half_transparent_red_is_pink() -> None:
    pixels = decode.rgb(stored(Image.new("RGBA", (1, 1), (255, 0, 0, 128))), "x")
    assert pixels[0, 0].tolist() == [255, 127, 127]


def test_palette_and_cmyk_give_their_colours() -> None:
    palette = Image.new("P", (1, 1))
    palette.putpalette(RED)
    assert decode.rgb(stored(palette), "x")[0, 0].tolist() == RED
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert decode.rgb(stored(cmyk, "TIFF"), "x")[0, 0].tolist() == RED
    assert np.abs(decode.rgb(stored(cmyk, "JPEG"), "x")[0, 0].astype(int) - RED).max() <= 2


def test_orientation_is_applied() -> None:
    image = Image.new("RGB", (2, 1), (0, 0, 0))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter turn clockwise
    pixels = decode.rgb(stored(image, exif=exif), "x")
    assert pixels[:, 0].tolist() == [RED, BLACK]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_truncated_file_is_named(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = stored(Image.fromarray(noise), kind).getvalue()
    for length, expected in ((0, "empty"), (10, None), (len(whole) // 2, "truncated")):
        with pytest.raises(BadImageError, match=r"^cat 7: ") as caught:
            decode.rgb(io.BytesIO(whole[:length]), "cat 7")
        assert expected in (caught.value.kind, None)


def test_foreign_bytes_and_floats_are_named() -> None:
    with pytest.raises(
        BadImageError, match=r"^cat 7: this is no image that can be read; it begins with b'no image"
    ) as caught:
        decode.rgb(io.BytesIO(b"no image at all"), "cat 7")
    assert caught.value.kind == "unreadable"
    with pytest.raises(BadImageError, match="cat 7: pixels of mode F have no known range"):
        decode.rgb(stored(Image.new("F", (2, 2)), "TIFF"), "cat 7")


def test_large_images_are_read_without_a_warning_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Image.MAX_IMAGE_PIXELS is None  # else Pillow would warn of a scan that is well below the limit
    monkeypatch.setattr(decode, "MAX_PIXELS", 100)
    assert decode.rgb(stored(Image.new("1", (10, 10))), "x").shape == (10, 10, 3)
    with pytest.raises(
        BadImageError, match=r"^x: 11 x 10 pixels are more than the 100 that are read; make it smaller$"
    ):
        decode.rgb(stored(Image.new("1", (11, 10))), "x")


def test_the_format_is_told_by_the_bytes_and_the_name_is_compared(tmp_path: Path) -> None:
    for name, kind, said in (
        ("a.jpg", "HEIF", "named .jpg, but HEIF"),
        ("b.heic", "HEIF", None),
        ("c.heic", "AVIF", "named .heic, but AVIF"),
        ("d.png", "TIFF", "named .png, but TIFF"),
        ("e.mpo", "JPEG", None),
        ("f", "PNG", None),
    ):
        (tmp_path / name).write_bytes(stored(Image.new("RGB", (16, 16)), kind).getvalue())
        assert decode.wrong_extension(tmp_path / name) == said


def test_files_that_cannot_be_opened_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere.png")
    for name, kind, words in (
        ("none.png", "missing", "there is no such file"),
        ("broken.png", "missing", "there is no such file"),
        ("empty.png", "empty", "the file has no bytes"),
        ("folder.png", "unreadable", "Is a directory"),
        ("loop.png", "unreadable", "Too many levels of symbolic links"),
    ):
        with pytest.raises(BadImageError, match=f"^{name}: {words}$") as caught:
            decode.rgb(tmp_path / name, name)
        assert caught.value.kind == kind


def test_square_leaves_the_right_size_alone() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert decode.square(pixels, 8) is pixels


@pytest.mark.parametrize("upright", [False, True])
def test_square_cuts_the_long_side_around_its_middle(upright: bool) -> None:
    pixels = np.zeros((16, 48, 3), dtype=np.uint8)
    pixels[:, 16:32] = 200
    pixels = pixels.transpose(1, 0, 2).copy() if upright else pixels
    cut = decode.square(pixels, 8)
    assert cut.shape == (8, 8, 3)
    assert np.abs(cut.astype(int) - 200).max() <= 30, "the edges of a bicubic filter see a little of what is cut"
    assert np.abs(cut[2:-2, 2:-2].astype(int) - 200).max() <= 2


def test_square_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(decode.square(stripes, 8).astype(int) - 127).max() <= 8


def test_square_enlarges() -> None:
    assert (decode.square(np.full((5, 3, 3), 9, dtype=np.uint8), 32) == np.full((32, 32, 3), 9)).all()


def test_a_pointer_of_git_lfs_is_called_so() -> None:
    pointer = io.BytesIO(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(BadImageError, match="this is a pointer of Git LFS; fetch the image itself"):
        decode.rgb(pointer, "x.png")
