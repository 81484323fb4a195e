"""Images without labels: found at any depth, never copies of others, pinned by their own card."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data import unlabelled
from pipeline.data.arrays import Split
from pipeline.data.card import DataCard
from pipeline.preparation import audit_table, prepare
from pipeline.preparation.audit import Audit
from pipeline.settings.data import Data
from pipeline.system.errors import DataError
from stages.preflight import preflight
from stages.prepare import prepare as stage
from tests import pictures, toy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images of each of two classes in train and test, and three images without labels."""
    names = [f"{split}/{kind}/{i}.png" for split in ("train", "test") for kind in ("cat", "dog") for i in range(5)]
    pictures.write(tmp_path / "photos", *names)
    for number in range(3):
        path = tmp_path.joinpath("more", *["deep"] * number, f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures.noise(100 + number)).save(path)
    return tmp_path


def data(folder: Path, **changes: object) -> Data:
    known = {"source": "folder", "path": str(folder / "photos"), "unlabelled": str(folder / "more"), "image_px": 8}
    return Data.model_validate({**known, **changes})


def prepared(folder: Path, **changes: object) -> tuple[DataCard, Audit]:
    card = prepare.prepare(data(folder, **changes), folder / "out", progress=False)
    return card, Audit.model_validate_json((folder / "out/audit.json").read_text(encoding="utf-8"))


def without_them(folder: Path) -> dict[str, bytes]:
    """All files of a prepared data set but those of images without labels, and the audit."""
    files = (path for path in (folder / "out").rglob("*.*") if path.parent.name != "unlabelled")
    return {path.name + path.parent.name: path.read_bytes() for path in files if path.name != "audit.json"}


def test_they_are_read_at_any_depth_and_change_nothing_of_the_splits(folder: Path) -> None:
    card, audit = prepared(folder)
    expected = without_them(folder)
    split, own = unlabelled.load(folder / "out", card)
    assert (split.images.shape, own.count, split.seen_px) == ((3, 8, 8, 3), 3, 8)
    assert set(split.labels.tolist()) == {unlabelled.NO_LABEL}
    assert sorted(card.counts) == ["test", "train", "val"]
    it = audit.splits["unlabelled"]
    assert (it.images, it.kept, it.dropped, it.class_images) == (3, 3, 0, None)

    alone, _ = prepared(folder, unlabelled=None)
    assert alone == card
    assert without_them(folder) == expected
    assert json.loads((folder / "out/unlabelled/card.json").read_text()) == {"count": 0, "sha256": None}
    with pytest.raises(DataError, match=r"prepared without images that have no labels. Set data\.unlabelled"):
        unlabelled.load(folder / "out", alone)


@pytest.mark.parametrize("leaks", ["report", "drop"])
def test_copies_of_labelled_images_are_always_dropped_and_the_splits_stay(folder: Path, leaks: str) -> None:
    before, _ = prepared(folder)
    kept = np.array(unlabelled.load(folder / "out", before)[0].images)
    copies = {"test/cat/3.png": "a copy.png", "test/dog/0.png": "deep/another.png", "train/cat/1.png": "of train.png"}
    for original, copy in copies.items():
        shutil.copy(folder / "photos" / original, folder / "more" / copy)
    # Other bytes with the same pixels, twice.
    Image.open(folder / "photos/test/cat/3.png").save(folder / "more/other.bmp")

    card, audit = prepared(folder, leaks=leaks)
    assert card == before
    assert np.array_equal(unlabelled.load(folder / "out", card)[0].images, kept)
    assert {name: it.dropped for name, it in audit.splits.items()} == {"train": 0, "val": 0, "test": 0, "unlabelled": 4}
    leaking = {it.name: (it.label, it.twin) for it in audit.findings if it.kind == "leak"}
    assert leaking["a copy.png"] == ("no label", "test/cat/3.png (cat)")
    assert sorted(leaking) == ["a copy.png", "deep/another.png", "of train.png", "other.bmp"]
    # No label is no other label, and it is not the source's own splits that share images.
    assert audit.counts["conflict"] == 0
    assert audit.source_splits.model_dump() == {"leaks": 0, "repeats": 0}
    assert "4 are copies of labelled ones and are dropped" in audit_table.text(audit)
    assert Split.load(folder / "out", "test", card).images.shape[0] == 10


def test_copies_among_themselves_are_reported_and_kept(folder: Path) -> None:
    shutil.copy(folder / "more/0.png", folder / "more/twice.png")
    card, audit = prepared(folder)
    assert unlabelled.load(folder / "out", card)[1].count == 4
    assert [(it.split, it.name, it.label) for it in audit.findings if it.kind == "duplicate"] == [
        ("unlabelled", "twice.png", "no label")
    ]


def test_bad_files_are_refused_or_left_out_as_elsewhere(folder: Path) -> None:
    (folder / "more/broken.png").write_text("no image")
    (folder / "more/notes.txt").touch()
    with pytest.raises(DataError, match=r"1 of 24 images cannot be read \(1 unreadable\): broken\.png"):
        prepared(folder)
    card, audit = prepared(folder, on_bad="skip")
    assert unlabelled.load(folder / "out", card)[1].count == 3
    assert [it.why for it in audit.left_out] == ["files have no image's ending (in data.unlabelled)"]


def test_a_folder_without_an_image_of_its_own_is_refused(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "empty/readme.txt").touch()
    for name, said in (("empty", "holds no image"), ("gone", "does not exist"), ("empty/readme.txt", "is a file")):
        with pytest.raises(DataError, match=said):
            prepared(folder, unlabelled=str(folder / name))
    with pytest.raises(
        DataError, match=r"No image of data\.unlabelled is left: of 10, 0 cannot be read and 10 are cop"
    ):
        prepared(folder, unlabelled=str(folder / "photos/test"))
    assert not (folder / "out").exists()


def test_it_may_lie_beside_the_splits(folder: Path) -> None:
    shutil.move(folder / "more", folder / "photos/unlabelled")
    for number in range(50):
        Image.fromarray(pictures.noise(200 + number)).save(folder / f"photos/unlabelled/{number + 10}.png")
    card, audit = prepared(folder, unlabelled=str(folder / "photos/unlabelled"))
    assert card.counts == {"train": 8, "val": 2, "test": 10}
    assert unlabelled.load(folder / "out", card)[1].count == 53
    assert audit.left_out == ()


def test_preflight_knows_the_folder_and_prepare_names_its_number(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(toy.ROOT / "params.yaml", folder)
    toy.edit(folder, toy.SMALL | {f"data.{key}": value for key, value in data(folder).model_dump().items() if value})
    params, out = folder / "params.yaml", folder / "artifacts/preflight"

    def fingerprint() -> dict[str, object]:
        preflight(params, out)
        found: dict[str, object] = json.loads((out / "source.json").read_text())["unlabelled"]
        return found

    first = fingerprint()
    assert (first["path"], first["files"]) == (str(folder / "more"), 3)
    Image.fromarray(pictures.noise(300)).save(folder / "more/new.png")
    second = fingerprint()
    assert second["files"] == 4
    assert second["digest"] != first["digest"]

    stage(params, folder / "out", out / "source.json", folder / "resume")
    assert "; 4 without labels" in capsys.readouterr().out

    shutil.move(folder / "more", folder / "elsewhere")
    assert fingerprint() == second
    assert "data.unlabelled" in capsys.readouterr().out
    (folder / "empty").mkdir()
    for wrong, said in (("wrong", "does not exist"), ("empty", "holds no image")):
        toy.edit(folder, {"data.unlabelled": str(folder / wrong)})
        with pytest.raises(DataError, match=rf"data\.unlabelled .* {said}"):
            preflight(params, out)
