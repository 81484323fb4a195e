"""Stanford 40's own layout: the lists decide, names keep their spelling, and a missing image is not passed over."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.preparation import prepare
from pipeline.preparation.decode import BadImageError
from pipeline.preparation.source import Source
from pipeline.settings.data import Data
from pipeline.sources import stanford40
from pipeline.system.errors import DataError, ParamsError
from tests import pictures

LISTS = {
    "throwing_frisby_train.txt": "throwing_frisby_001.jpg\nthrowing_frisby_003.jpg\n",
    "throwing_frisby_test.txt": "throwing_frisby_002.jpg\r\n\r\n",
    "watching_TV_train.txt": "watching_TV_004.jpg\nwatching_TV_002.jpg",
    "watching_TV_test.txt": " watching_TV_001.jpg \nwatching_TV_003.jpg\n",
    "actions.txt": "action_name\tnumber\nthrowing_frisby\t2/1\nwatching_TV\t2/2\n",
}
PHOTOS = [f"{name}_{number:03}.jpg" for name in ("throwing_frisby", "watching_TV") for number in (1, 2, 3, 4)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    pictures.write(tmp_path / "JPEGImages", *PHOTOS)
    (tmp_path / "ImageSplits").mkdir()
    for name, text in LISTS.items():
        (tmp_path / "ImageSplits" / name).write_text(text, newline="")
    return tmp_path


def opened(home: Path) -> Source:
    return stanford40.open_source(stanford40.Config(), Data(source="stanford40", path=str(home)))


def test_the_lists_say_what_is_trained_and_tested(home: Path) -> None:
    (home / "XMLAnnotations").mkdir()
    (home / "ImageSplits/._watching_TV_train.txt").write_bytes(b"\x00\x05\x16\x07")
    source = opened(home)
    assert source.labels == ("throwing_frisby", "watching_TV")
    train, test = source.splits["train"], source.splits["test"]
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert [train.name(index) for index in (1, 2)] == [
        "JPEGImages/throwing_frisby_003.jpg",
        "JPEGImages/watching_TV_004.jpg",
    ]
    assert test.labels.tolist() == [0, 1, 1]
    assert test.path(2) == home / "JPEGImages/watching_TV_003.jpg"
    np.testing.assert_array_equal(test.read(2), pictures.noise(PHOTOS.index("watching_TV_003.jpg")))
    card = prepare.prepare(Data(source="stanford40", path=str(home), image_px=8), home / "out", progress=False)
    assert card.counts == {"train": 2, "val": 2, "test": 3}


def test_a_listed_image_that_is_missing_fails_as_such(home: Path) -> None:
    (home / "JPEGImages/watching_TV_003.jpg").unlink()
    test = opened(home).splits["test"]
    assert len(test) == 3
    with pytest.raises(BadImageError, match=r"^JPEGImages/watching_TV_003\.jpg: there is no such file") as caught:
        test.read(2)
    assert caught.value.kind == "missing"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("watching_TV_test.txt", None, "ImageSplits lacks watching_TV_test.txt; expected two lists for each class"),
        ("cooking_test.txt", "x.jpg", "ImageSplits lacks cooking_train.txt"),
        ("watching_TV_test.txt", "\n \n", "watching_TV_test.txt names no image; expected one file name per line"),
        ("watching_TV_test.txt", "\xff", "watching_TV_test.txt cannot be read as a list of file names: 'utf-8' codec"),
        (
            "watching_TV_test.txt",
            "watching_TV_003.jpg\nthrowing_frisby_001.jpg\nwatching_TV_003.jpg\n",
            "2 images are listed twice: throwing_frisby_001.jpg in throwing_frisby_train.txt and watching_TV_test.txt; "
            "watching_TV_003.jpg in watching_TV_test.txt and watching_TV_test.txt. Remove one line of each.",
        ),
    ],
)
def test_lists_that_do_not_fit_together_are_named(name: str, text: str | None, words: str, home: Path) -> None:
    path = home / "ImageSplits" / name
    if text is None:
        path.unlink()
    else:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=words):
        opened(home)


def test_another_folder_is_named(home: Path) -> None:
    for name in LISTS:
        (home / "ImageSplits" / name).unlink()
    with pytest.raises(DataError, match="ImageSplits holds no list; expected CLASS_train"):
        opened(home)
    with pytest.raises(DataError, match="has no folder JPEGImages; expected the folder that holds JPEGImages and Ima"):
        opened(home / "JPEGImages")
    with pytest.raises(ParamsError, match=r"data\.path is null"):
        stanford40.open_source(stanford40.Config(), Data(source="stanford40"))
