"""The folder source: class folders with splits or without, files of every kind, and every layout that is none."""

import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data import arrays
from pipeline.data.feed import Feed
from pipeline.evaluation import metrics
from pipeline.models import checkpoint
from pipeline.preparation import decode, prepare
from pipeline.preparation.audit import Audit
from pipeline.preparation.decode import BadImageError
from pipeline.preparation.source import Source
from pipeline.settings import params
from pipeline.settings.data import Data
from pipeline.sources import folder
from pipeline.sources.folder import Config
from pipeline.system.errors import DataError, ParamsError
from stages.train_teacher import train_teacher
from tests import pictures, tiny, toy

SPLIT = ("train/cat/1.png", "train/dog/2.png", "test/cat/3.png", "test/dog/4.png")
WHOLE = tuple(f"{label}/{number}.png" for label in ("cat", "dog") for number in range(10))

DEFAULT = Config()


def opened(path: Path | str, config: Config = DEFAULT, seed: int = 0) -> Source:
    return folder.open_source(config, Data(source="folder", path=str(path), seed=seed))


def names(source: Source, split: str) -> list[str]:
    records = source.splits[split]
    return [records.name(index) for index in range(len(records))]


def test_splits_are_taken_as_they_lie(tmp_path: Path) -> None:
    pictures.write(tmp_path / "elsewhere", "a.png")
    more = ("Valid/dog/5.JPG", "Valid/cat/6.png", "train/cat/deep/er/0.png")
    photos = pictures.write(tmp_path / "photos", *SPLIT, *more, "train/dog/._2.png", ".cache/x/1.png")
    (photos / "train/dog/linked").symlink_to(tmp_path / "elsewhere")
    (photos / "train/dog/link.png").symlink_to("2.png")
    source = opened(photos)
    assert source.labels == ("cat", "dog")
    assert list(source.splits) == ["train", "val", "test"]
    assert names(source, "train") == [
        *("train/cat/1.png", "train/cat/deep/er/0.png"),
        *("train/dog/2.png", "train/dog/link.png", "train/dog/linked/a.png"),
    ]
    assert source.splits["train"].labels.tolist() == [0, 0, 1, 1, 1]
    assert names(source, "val") == ["Valid/cat/6.png", "Valid/dog/5.JPG"]
    assert source.splits["test"].path(1) == photos / "test/dog/4.png"
    np.testing.assert_array_equal(source.splits["test"].read(1), pictures.noise(3))
    assert left_out(source) == [(2, "files are hidden or were put there by a system")]


def test_a_test_split_is_drawn_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = pictures.write(tmp_path / "photos", *WHOLE, "rare/1.png")
    source = opened(photos, Config(test_fraction=0.3))
    train, test = names(source, "train"), names(source, "test")
    assert sorted(train + test) == sorted([*WHOLE, "rare/1.png"])
    assert np.bincount(source.splits["test"].labels).tolist() == [3, 3], "one image of a class cannot be split"
    assert names(opened(photos, Config(test_fraction=0.3), seed=1), "test") != test
    # The order in which files came into being, and how the folder is called, draw nothing.
    again = pictures.write(tmp_path / "again", "rare/1.png", *reversed(WHOLE))
    monkeypatch.chdir(again.parent)
    assert names(opened("again", Config(test_fraction=0.3)), "test") == test


def left_out(source: Source) -> list[tuple[int, str]]:
    return [(len(group.names), group.why) for group in source.left_out]


def test_what_is_left_out_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = pictures.write(tmp_path / "photos", *WHOLE, "cover.png")
    (photos / "cat/notes.txt").touch()
    (photos / "LICENSE").touch()
    (photos / "cat/1.txt").touch()
    (photos / "cat/2.png.json").touch()
    data = Data(source="folder", path=str(photos), image_px=8)
    prepare.prepare(data, tmp_path / "out")
    said, noted = capsys.readouterr()
    assert said.startswith("Audit of folder: 20 images opened, 5 files left out\n")
    assert noted.splitlines() == [
        "note: 2 files have the name of an image, but not the ending, and are left out: cat/1.txt, cat/2.png.json.",
        "note: 2 files have no image's ending, and are left out: LICENSE, cat/notes.txt.",
        "note: 1 images lie in no class folder, and are left out: cover.png.",
    ]
    audited = Audit.model_validate_json((tmp_path / "out/audit.json").read_text()).left_out
    assert [(it.count, it.names) for it in audited][1:] == [(2, ("LICENSE", "cat/notes.txt")), (1, ("cover.png",))]


def test_half_a_folder_that_would_be_left_out_is_an_error(tmp_path: Path) -> None:
    photos = pictures.write(tmp_path / "photos", *WHOLE)
    for number in range(20):
        (photos / f"cat/{number}.txt").touch()
        (photos / f"dog/clip{number}.mov").touch()
    data = Data(source="folder", path=str(photos), image_px=8)
    words = (
        r"Of 50 files only 20 would be read: 30 files have no image's ending: cat/10\.txt, .* and 25 more\. Save them"
    )
    with pytest.raises(DataError, match=words):
        prepare.prepare(data, tmp_path / "out", progress=False)
    skip = data.model_copy(update={"on_bad": "skip"})
    assert sum(prepare.prepare(skip, tmp_path / "out", progress=False).counts.values()) == 20


def test_what_systems_put_between_the_images_is_left_out(tmp_path: Path) -> None:
    clutter = ("@eaDir/cat/1.jpg", "#recycle/1.png", "cat/@eaDir/1.png/thumb.png", "System Volume Information/x", ".x")
    photos = pictures.write(tmp_path / "photos", *WHOLE, *clutter, "@home/1.png")
    (photos / "lost+found").mkdir()
    source = opened(photos)
    assert source.labels == ("@home", "cat", "dog")
    assert left_out(source) == [(5, "files are hidden or were put there by a system")]
    for split in ("train", "test"):
        pictures.write(tmp_path / "both" / split, *WHOLE)
    pictures.write(tmp_path / "both", "train/@eaDir/1.png", "test/#recycle/2.png")
    assert [len(records) for records in opened(tmp_path / "both").splits.values()] == [20, 20]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    pictures.write(tmp_path, *(f"{label}/{number}.png" for label in ("bus", "train") for number in range(4)))
    assert opened(tmp_path).labels == ("bus", "train")


def test_names_in_any_language_and_in_none(tmp_path: Path) -> None:
    latin, decomposed = "caf\xe9", unicodedata.normalize("NFD", "caf\xe9")
    assert latin != decomposed
    pictures.write(tmp_path, f"train/{latin}/\u732b.png", "train/\u72ac/1.png", f"test/{decomposed}/2.png")
    pictures.write(tmp_path, "test/\u72ac/\U0001f436 \xdf.png")
    source = opened(tmp_path)
    assert source.labels == (latin, "\u72ac")
    assert names(source, "train") == [f"train/{latin}/\u732b.png", "train/\u72ac/1.png"]
    assert source.splits["test"].read(0).shape == (6, 5, 3)
    os.rename(tmp_path / "train/\u72ac/1.png", os.fsencode(tmp_path / "train/\u72ac") + b"/\xff.png")
    source = opened(tmp_path)
    assert names(source, "train")[1] == "train/\u72ac/\\xff.png"
    assert source.splits["train"].read(1).shape == (6, 5, 3)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            (),
            r"has no class folders; expected a folder with one folder of images for each class \(cat/1\.jpg\), or tra",
        ),
        (("1.png", "2.png"), "has no class folders; expected"),
        (("train/1.png", "test/2.png"), "train has no class folders; expected"),
        (("photos/cat/1.png", "photos/dog/2.png"), "has only one folder, photos, .* give the path of that folder"),
        ((*SPLIT, "train/bee/"), r"1 of 3 class folders in .*train have no image: bee\. Add images"),
        ((*SPLIT, "train/bee/1.txt", "test/bee/5.png"), "1 of 3 class folders in .*train have no image: bee"),
        ((*SPLIT, "test/bee/5.png"), r"1 classes of .*test have no folder in train: bee\. All splits need the same"),
        ((*SPLIT, "train/bee/5.png"), "1 classes of .*train have no folder in test: bee"),
        ((*SPLIT, "val/Cat/5.png", "val/dog/6.png"), "1 classes of .*val have no folder in train: Cat"),
        ((*SPLIT, "val/cat/5.png", "Validation/cat/6.png"), "two folders for one split: .*val.*Keep one"),
        (SPLIT[:2], "has train, but no folder test"),
        ((*SPLIT[:2], "val/cat/5.png"), "has train, val, but no folder test.* then a test split is drawn"),
        (SPLIT[2:], "has test, but no folder train"),
        (("cat/1.png", "cat /2.png", "dog/3.png"), "1 classes are spelt in more than one way: 'cat' and 'cat '"),
        (("cat/1.png", "\u2003/2.png"), r"1 of the 2 classes in the folders of .* no name .*: number 1 \('\\u2003'\)"),
        (("cat/1.png", "a\nb/2.png"), r"1 class folders have names .* more than one line: a\\nb\. Rename them"),
        (("caf\xe9/1.png", "cafe\u0301/2.png"), "1 class folders have names that are written in two ways"),
        (("cat/1.png", "\udcff/2.png"), r"1 class folders have names .* not UTF-8 .*: \\xff\. Rename them"),
    ],
)
def test_a_layout_that_is_none_is_named(files: tuple[str, ...], words: str, tmp_path: Path) -> None:
    for name in files:
        if name.endswith("/"):
            (tmp_path / name).mkdir(parents=True)
        else:
            pictures.write(tmp_path, name)
    with pytest.raises(DataError, match=words) as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


def test_a_path_that_leads_nowhere_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=rf"data\.path none does not exist \({tmp_path}/none\); expected a folder with"):
        opened("none")
    with pytest.raises(DataError, match=r"data\.path file is a file"):
        opened("file")
    with pytest.raises(
        ParamsError, match=r"data\.path is null, but the source folder needs a path there: a folder with"
    ):
        folder.open_source(Config(), Data(source="folder"))


def test_links_in_circles_are_named_and_links_to_nothing_are_missing_images(tmp_path: Path) -> None:
    photos = pictures.write(tmp_path / "photos", *SPLIT)
    (photos / "train/cat/gone.png").symlink_to("nowhere.png")
    (photos / "train/cat/self.png").symlink_to("self.png")
    train = opened(photos).splits["train"]
    for index, kind in ((1, "missing"), (2, "unreadable")):
        with pytest.raises(BadImageError, match=r"^train/cat/(gone|self)\.png: ") as caught:
            train.read(index)
        assert caught.value.kind == kind
    (photos / "val").symlink_to("test")
    (photos / "train/cat/all").symlink_to("../..")
    with pytest.raises(
        DataError, match=rf"in another way: train/cat/all -> {photos}, val -> {photos}/test\. .*remove the links"
    ):
        opened(photos)


def grey_16_bit() -> Image.Image:
    return Image.fromarray(np.full((8, 8), 200 * 256, dtype=np.uint16))


def palette() -> Image.Image:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    return image


def rotated() -> Image.Image:
    """Stored lying on its side, red at the left; EXIF says that left is the bottom of the upright picture."""
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:, :4] = (255, 0, 0)
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = 8
    return image


# What is stored, and the pixels at the middle of the top and of the bottom when it is shown.
KINDS: dict[str, tuple[Callable[[], Image.Image], list[int], list[int]]] = {
    "grey.png": (lambda: Image.new("L", (8, 8), 77), [77] * 3, [77] * 3),
    "grey16.png": (grey_16_bit, [200] * 3, [200] * 3),
    "bits.png": (lambda: Image.new("1", (8, 8), 1), [255] * 3, [255] * 3),
    "clear.png": (lambda: Image.new("RGBA", (8, 8), (0, 0, 0, 0)), [255] * 3, [255] * 3),
    "cmyk.tif": (lambda: Image.new("CMYK", (8, 8), (0, 255, 255, 0)), [255, 0, 0], [255, 0, 0]),
    "palette.gif": (palette, [10, 20, 30], [10, 20, 30]),
    "rotated.png": (rotated, [0, 0, 0], [255, 0, 0]),
    "pixel.png": (lambda: Image.new("RGB", (1, 1), (9, 8, 7)), [9, 8, 7], [9, 8, 7]),
}


def test_images_of_every_kind_come_out_as_a_person_sees_them(tmp_path: Path) -> None:
    photos = pictures.write(tmp_path / "photos", "train/rest/0.png", "test/all/0.png", "test/rest/1.png")
    for name, (make, _, _) in KINDS.items():
        (photos / "train/all").mkdir(exist_ok=True)
        image = make()
        image.save(photos / "train/all" / name, exif=image.getexif())
    train = opened(photos).splits["train"]
    for index, name in enumerate(sorted(KINDS)):
        assert train.name(index) == f"train/all/{name}"
        pixels = decode.square(train.read(index), 8)
        assert [pixels[1, 4].tolist(), pixels[6, 4].tolist()] == list(KINDS[name][1:]), name


def test_training_and_evaluation_need_the_prepared_images_alone(tmp_path: Path) -> None:
    photos = pictures.write(tmp_path / "photos", *WHOLE)
    shutil.copy(toy.ROOT / "params.yaml", tmp_path)
    small = {"image_px": 8, "source": "folder", "path": str(photos)}
    recipe = {"arch": "resnet8", "train.epochs": 1, "train.batch_size": 7, "train.milestones": []}
    toy.edit(
        tmp_path,
        {f"data.{key}": value for key, value in small.items()}
        | {f"teacher.{key}": value for key, value in recipe.items()},
    )
    settings, prepared, teacher = tmp_path / "params.yaml", tmp_path / "prepared", tmp_path / "teacher"
    card = prepare.prepare(params.load(settings).data, prepared, progress=False)
    assert card.counts == {"train": 14, "val": 2, "test": 4}
    shutil.rmtree(photos)
    train_teacher(settings, prepared, teacher, tmp_path / "resume.safetensors")
    network, header = checkpoint.load(teacher / "model.safetensors")
    test = Feed(arrays.Split.load(prepared, "test", card), header.normalization, tiny.CPU)
    logits, labels = metrics.predict(network, test)
    assert (logits.shape, labels.tolist()) == ((4, 2), [0, 0, 1, 1])
