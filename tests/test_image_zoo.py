"""Prepare and the server see every kind of image file alike, as a person sees it; what is torn is called torn alone."""

import io
import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.preparation import decode as pipeline_decode
from pipeline.preparation import formats
from pipeline.preparation.decode import BadImageError, wrong_extension
from serve.errors import ImageError
from serve.model import decode as serve_decode
from tests.zoo import PREPARED, SERVED

ROOT = Path(__file__).parent.parent
# Of metadata that are torn on purpose; the two modules silence them, but pytest begins anew for each test.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize("name", PREPARED)
def test_prepare_sees_what_a_person_sees(name: str, tmp_path: Path) -> None:
    animal = PREPARED[name]
    file = tmp_path / f"x{animal.suffix}"
    file.write_bytes(animal.content)
    pixels = pipeline_decode.rgb(file, name)
    assert pixels.shape == animal.expected.shape
    difference = np.abs(pixels.astype(int) - animal.expected)
    assert difference.max() <= animal.tolerance, difference.max()
    assert wrong_extension(file) is None


@pytest.mark.parametrize("name", SERVED)
def test_the_server_sees_the_same_pixels(name: str) -> None:
    content = SERVED[name].content
    prepared = pipeline_decode.square(pipeline_decode.rgb(io.BytesIO(content), name), 16)
    np.testing.assert_array_equal(serve_decode.decode(content, 16), prepared)


@pytest.mark.parametrize("name", sorted(PREPARED.keys() - SERVED.keys()))
def test_the_server_says_what_it_takes_where_it_takes_less(name: str) -> None:
    with pytest.raises(ImageError, match=r"^Expected an image \(JPEG, PNG, WebP or HEIC\), but this is "):
        serve_decode.decode(PREPARED[name].content, 16)


@pytest.mark.parametrize("name", PREPARED)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_file_that_is_cut_is_truncated_or_has_all_its_pixels(name: str, share: float) -> None:
    content = PREPARED[name].content
    try:
        whole = pipeline_decode.rgb(io.BytesIO(content[: int(share * len(content))]), name)
    except BadImageError as error:
        assert error.kind == "truncated"  # noqa: PT017  # or it can be read
    else:
        np.testing.assert_array_equal(whole, pipeline_decode.rgb(io.BytesIO(content), name))


@pytest.mark.parametrize("name", PREPARED)
def test_a_file_that_is_whole_but_broken_is_never_called_truncated(name: str) -> None:
    content = np.frombuffer(PREPARED[name].content, np.uint8)
    random = np.random.default_rng(0)
    for _ in range(20):
        spoilt = content.copy()
        middle = slice(len(spoilt) // 3, len(spoilt) * 9 // 10)
        places = random.integers(middle.start, middle.stop, 4)
        spoilt[places] ^= random.integers(1, 256, 4, dtype=np.uint8)
        try:
            pipeline_decode.rgb(io.BytesIO(spoilt.tobytes()), name)
        except BadImageError as error:
            assert "\n" not in error.reason  # noqa: PT017  # or it can be read
            assert error.kind == "unreadable" or formats.is_cut(spoilt.tobytes())  # noqa: PT017


def test_the_page_names_every_ending_that_is_read() -> None:
    page = (ROOT / "docs/data-sources.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| format .*\n(?:\|.*\n)+", page, re.MULTILINE)
    assert set(re.findall(r"`(\.\w+)`", table)) == set(formats.EXTENSIONS)
