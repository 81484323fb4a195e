"""Whatever files and folders are called: the images that lie in a folder are those opened and those left out."""

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.preparation import prepare
from pipeline.preparation.audit import Audit
from pipeline.settings.data import Data
from pipeline.sources import folder as folder_source
from tests import pictures

# What is made of patterns, splits, other alphabets, shells and lines; of bytes that are no text, Linux alone knows.
NAMES = (
    *(
        "train_1",
        "test tube",
        "1_val_",
        "a[1]",
        "a*",
        "what?",
        "{a,b}",
        "#1",
        "$HOME",
        "%41",
        "a\nb",
        "\u732b",
        "caf\xe9",
    ),
    *("caf e\u0301", "-rf", "a:b", "a::b", "x.tar", "quote'\"", "back\\slash", " blank ", "~", "a.train.b"),
)
CLASSES = ("train_station", "test_tube", "[cat]", "a*", "\u732b?", "{val}", "dev null")
CLUTTER = ("@eaDir/train_station/1.png", "[cat]/@eaDir/2.png", "#recycle/3.png", ".Trashes/501/4.png", "a*/._5.png")


def lying(folder: Path) -> int:
    """Image files below a folder, counted in another way than by Pupil."""
    return sum(name.endswith(".png") for _, _, names in os.walk(folder) for name in names)


def class_folders(folder: Path, *tops: str) -> None:
    names = [f"{top}{kind}/{name}.png" for top in tops for kind in CLASSES for name in NAMES]
    pictures.write(folder, *names, *CLUTTER, "loose.png")


def a_split_too_many(folder: Path) -> None:
    class_folders(folder, "train/", "test/", "unseen/")


def table(folder: Path) -> None:
    """Images that rows of CSV files name, and one that none names."""
    class_folders(folder, "pool/")
    for split, share in (("train", slice(0, 15)), ("test", slice(15, None))):
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            rows = [(f"pool/{kind}/{name}.png", kind) for kind in CLASSES for name in NAMES[share]]
            csv.writer(file).writerows([("image", "label"), *rows])


def stanford(folder: Path) -> None:
    kinds = {
        kind: [name for name in NAMES if "\n" not in name and name == name.strip()] for kind in ("run", "test_tube")
    }
    pictures.write(folder, *(f"JPEGImages/{kind}_{name}.png" for kind, names in kinds.items() for name in names))
    pictures.write(folder / "JPEGImages", "unlisted.png", "@eaDir/thumb.png")
    (folder / "ImageSplits").mkdir()
    for kind, names in kinds.items():
        for split, part in (("train", names[:12]), ("test", names[12:])):
            lines = "".join(f"{kind}_{name}.png\n" for name in part)
            (folder / f"ImageSplits/{kind}_{split}.txt").write_text(lines, encoding="utf-8")


CASES: dict[str, tuple[str, Callable[[Path], Any], dict[str, Any]]] = {
    "folder": ("folder", lambda folder: class_folders(folder, ""), {}),
    "folder with splits": ("folder", lambda folder: class_folders(folder, "train/", "test/", "val/"), {}),
    "hub, no splits": ("huggingface", lambda folder: class_folders(folder, ""), {"test_split": None}),
    "hub, splits": ("huggingface", lambda folder: class_folders(folder, "train/", "test/", "val/"), {}),
    "hub, a split too many": ("huggingface", a_split_too_many, {"val_split": None}),
    "hub, table of paths": ("huggingface", table, {}),
    "stanford40": ("stanford40", stanford, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_images_that_lie_there_are_opened_or_left_out(name: str, tmp_path: Path) -> None:
    source, make, config = CASES[name]
    place = tmp_path / "photos [2024] a* {b}? \u732b"
    make(place)
    for odd in ("\udcff.png",) if name == "folder" else ():
        shutil.copy(next(place.rglob("train_1.png")), os.fsencode(place / CLASSES[0]) + b"/" + os.fsencode(odd))
    data = Data(source=source, path=str(place), image_px=8, on_bad="skip", sources={source: config})
    prepare.prepare(data, tmp_path / "out", progress=False)
    audit = Audit.model_validate_json((tmp_path / "out/audit.json").read_text(encoding="utf-8"))
    opened = sum(split.images for split in audit.splits.values())
    images = sum(group.count for group in audit.left_out if "neither" not in group.why)
    assert opened + images == lying(place) + sum(it.count for it in audit.left_out if "ending" in it.why)
    assert all("\n" not in shown for group in audit.left_out for shown in group.names)
    assert not any(split.bad for split in audit.splits.values())


def test_data_inside_the_project_are_prepared_once(tmp_path: Path) -> None:
    class_folders(tmp_path / "data", "")
    data = Data(source="folder", path=str(tmp_path / "data"), image_px=8)
    seen = folder_source.fingerprint(folder_source.Config(), data)
    card = prepare.prepare(data, tmp_path / "data/prepared", progress=False)
    assert folder_source.fingerprint(folder_source.Config(), data) == seen
    assert prepare.prepare(data, tmp_path / "data/prepared", progress=False) == card
