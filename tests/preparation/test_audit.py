"""The audit finds every kind of bad image and folder, says all of it at once, and can be interrupted."""

import base64
import io
import json
import os
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from ruamel.yaml import YAML

from pipeline.data import arrays
from pipeline.data.card import DataCard
from pipeline.preparation import audit_table, decode, one_pass, prepare, reading
from pipeline.preparation.audit import IMBALANCE, KINDS, TINY_NAMED, Audit
from pipeline.preparation.source import Records, Source
from pipeline.settings import params
from pipeline.settings.data import Data
from pipeline.settings.reading import parse
from pipeline.system import files
from pipeline.system.errors import DataError, PupilError, StoppedError

ROOT = Path(__file__).parents[2]
DATA = Data(image_px=8, val_fraction=0.1)
SKIP = DATA.model_copy(update={"on_bad": "skip"})
NAMES = ("common", "rare")


@dataclass(frozen=True)
class Files:
    """Image files with their labels."""

    paths: Sequence[Path]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> NDArray[np.uint8]:
        return decode.rgb(self.paths[index], self.name(index))

    def path(self, index: int) -> Path:
        return self.paths[index]

    def name(self, index: int) -> str:
        return "/".join(self.paths[index].parts[-2:])


def noise(seed: int, height: int = 10, width: int = 12) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def saved(image: Image.Image, path: Path, kind: str | None = None) -> Path:
    path.parent.mkdir(exist_ok=True)
    image.save(path, kind)
    return path


def source(folder: Path, more: dict[str, list[tuple[str, int]]] | None = None) -> Source:
    """43 noise images in train, 3 of them rare, 4 in val and test; then those of `more`, already there, by split."""
    splits: dict[str, Records] = {}
    of = {"train": [0] * 40 + [1] * 3, "test": [0, 1] * 2, "val": [0, 1] * 2}
    for number, (split, labels) in enumerate(of.items()):
        paths = [saved(noise(1000 * number + i), folder / split / f"{i:03}.png") for i in range(len(labels))]
        extra = (more or {}).get(split, [])
        paths += [folder / split / name for name, _ in extra]
        splits[split] = Files(paths, np.array(labels + [label for _, label in extra], np.int64))
    return Source(NAMES, splits, None)


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """One image of every kind that can be wrong, all of them in train."""
    folder = tmp_path_factory.mktemp("spoilt")
    train = folder / "train"
    jpeg = io.BytesIO()
    noise(1, 40, 40).save(jpeg, "JPEG")
    saved(noise(5002), train / "a PNG.jpg", "PNG")
    saved(noise(5003, 1, 1), train / "one pixel.png")
    saved(noise(0), train / "again.bmp")  # 000.png
    saved(noise(1001), train / "of test \xe9.png")  # 001.png of test, which is rare
    (train / "empty.png").touch()
    (train / "half.jpg").write_bytes(jpeg.getvalue()[: len(jpeg.getvalue()) // 2])
    (train / "text.gif").write_text("no image at all")
    names = ["a PNG.jpg", "one pixel.png", "again.bmp", "of test \xe9.png", "gone.png", "empty.png", "half.jpg"]
    return source(folder, {"train": [(name, 0) for name in (*names, "text.gif")]})


def prepared(of: Source, data: Data, folder: Path) -> tuple[DataCard, Audit]:
    card = prepare.write(of, data, folder / "out", progress=False)
    return card, Audit.model_validate_json((folder / "out/audit.json").read_text(encoding="utf-8"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_kind_is_found_and_what_can_be_used_is_kept(spoilt: Source, tmp_path: Path) -> None:
    card, audit = prepared(spoilt, SKIP, tmp_path)
    found = {(it.kind, it.name): it for it in audit.findings}
    for kind, name, words in (
        ("missing", "gone.png", "no such file"),
        ("empty", "empty.png", "no bytes"),
        ("unreadable", "text.gif", "no image that can be read"),
        ("truncated", "half.jpg", "ends before its image does"),
        ("wrong_extension", "a PNG.jpg", "named .jpg, but PNG"),
        ("tiny", "one pixel.png", "1 x 1 px, enlarged to 8"),
        ("leak", "of test \xe9.png", "the pixels of test/001.png (rare)"),
        ("conflict", "of test \xe9.png", "the pixels of test/001.png (rare)"),
    ):
        assert words in found[kind, f"train/{name}"].reason
    assert audit.counts == dict.fromkeys(KINDS, 1)
    assert found["imbalance", "class rare"].reason == "3 images; common has 44"
    assert audit.source_splits.model_dump() == {"leaks": 1, "repeats": 1}
    assert card.class_counts["test"] == (2, 2)
    assert card.counts == {"train": 47, "val": 4, "test": 4}
    assert sum(it.bad for it in audit.splits.values()) == audit.num_bad == 4
    assert {name: it.kept for name, it in audit.splits.items()} == card.counts
    width = audit.splits["train"].width_px
    assert width is not None
    assert (width.min, width.median, width.max) == (1, 12, 12)
    assert {name: files.sha256(tmp_path / "out" / name) for name in card.sha256} == card.sha256
    assert arrays.Split.load(tmp_path / "out", "train", card).images[-1].any()


def test_by_default_it_fails_and_lists_all_that_is_bad(
    spoilt: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = tmp_path / "out.audit.json"
    words = rf"4 of 59 images cannot be read \(1 missing, 1 empty, 1 unreadable, 1 truncated\): .* is in {refused}\.$"
    with pytest.raises(DataError, match=words):
        prepare.write(spoilt, DATA, tmp_path / "out")
    assert os.listdir(tmp_path) == [refused.name]
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 100
    for words in ("train/gone.png", "train/half.jpg", "Found: missing 1, empty 1", "= test/001.png (rare)"):
        assert words in table


def test_findings_have_pictures_but_those_without_pixels(spoilt: Source, tmp_path: Path) -> None:
    _, audit = prepared(spoilt, SKIP, tmp_path)
    pictures = {it.kind: it.thumbnail for it in audit.findings}
    assert {kind for kind, picture in pictures.items() if picture} == {
        *("wrong_extension", "duplicate", "conflict", "leak", "tiny"),
    }
    leak = np.asarray(Image.open(io.BytesIO(base64.b64decode(pictures["leak"] or ""))))
    np.testing.assert_array_equal(leak, decode.square(np.asarray(noise(1001)), 8))


def test_dropped_leaks_go_from_train_and_stay_in_test(spoilt: Source, tmp_path: Path) -> None:
    reported, _ = prepared(spoilt, SKIP, tmp_path / "reported")
    card, audit = prepared(spoilt, SKIP.model_copy(update={"leaks": "drop"}), tmp_path / "dropped")
    assert {name: it.dropped for name, it in audit.splits.items()} == {"train": 1, "val": 0, "test": 0}
    assert card.counts == {**reported.counts, "train": reported.counts["train"] - 1}
    before, after = (
        np.array(arrays.Split.load(tmp_path / name / "out", "train", made).images)
        for name, made in (("reported", reported), ("dropped", card))
    )
    leaking = decode.square(np.asarray(noise(1001)), 8)
    kept = (before != leaking).any((1, 2, 3))
    np.testing.assert_array_equal(after, before[kept])
    np.testing.assert_allclose(card.normalization.mean, after.mean((0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(card.normalization.std, (after / 255).std((0, 1, 2)), rtol=1e-12)
    assert {name: files.sha256(tmp_path / "dropped/out" / name) for name in card.sha256} == card.sha256


def test_copies_that_val_tears_apart_are_leaks_of_the_prepared_splits_alone(tmp_path: Path) -> None:
    copies = source(tmp_path)
    train = copies.splits["train"]
    assert isinstance(train, Files)
    doubled = Files([*train.paths] * 2, np.tile(train.labels, 2))
    _, audit = prepared(Source(NAMES, {"train": doubled, "test": copies.splits["test"]}, None), DATA, tmp_path)
    assert audit.source_splits.model_dump() == {"leaks": 0, "repeats": 43}
    assert audit.counts["leak"] > 0
    assert audit.counts["leak"] + audit.counts["duplicate"] == 43
    assert audit.counts["conflict"] == 0
    assert sum(it.thumbnail is not None for it in audit.findings) == 43
    lines = audit_table.text(audit).splitlines()
    assert lines[-1] == f"... and {len(audit.findings) - 20} more in audit.json"


def test_a_class_that_loses_all_its_training_images_is_named(tmp_path: Path) -> None:
    whole = source(tmp_path)
    train = whole.splits["train"]
    assert isinstance(train, Files)
    for path in train.paths[40:]:
        path.write_bytes(b"")
    splits = {**whole.splits, "train": Files(train.paths, np.where(np.arange(43) < 20, 2, train.labels))}
    lost = Source((*NAMES, "other"), splits, None)
    with pytest.raises(DataError, match=r"Without 3 images that cannot be read and 0 that leak.*: rare.* is in "):
        prepare.write(lost, SKIP, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_class_with_one_image_is_trained_and_not_validated(tmp_path: Path) -> None:
    one = source(tmp_path)
    train = one.splits["train"]
    assert isinstance(train, Files)
    few = Files(train.paths[:41], train.labels[:41])
    card, audit = prepared(Source(NAMES, {"train": few, "test": one.splits["test"]}, None), DATA, tmp_path)
    assert (card.class_counts["train"], card.class_counts["val"]) == ((36, 1), (4, 0))
    assert audit.counts["imbalance"] == 1


@pytest.mark.parametrize(("workers", "system"), [(1, "linux"), (3, "linux"), (3, "darwin")])
def test_the_number_of_processes_or_threads_changes_no_byte(
    workers: int, system: str, spoilt: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    prepare.write(spoilt, SKIP, whole, progress=False)
    monkeypatch.setattr(reading.sys, "platform", system)  # threads read elsewhere than on Linux
    monkeypatch.setattr(reading, "_LARGEST_BLOCK", 5)
    monkeypatch.setattr(one_pass, "WORKERS", workers)
    prepare.write(spoilt, SKIP, tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == contents(whole)


class Killed(Exception):
    pass


def interrupt(patch: pytest.MonkeyPatch, after: int, how: signal.Signals | None) -> None:
    """Read blocks of 5 in this process, and end in the middle of record number `after`."""
    read, count = Files.read, iter(range(1000))

    def interrupted(self: Files, index: int) -> NDArray[np.uint8]:
        if next(count) == after:
            if how is None:
                raise Killed
            os.kill(os.getpid(), how)
        return read(self, index)

    patch.setattr(reading, "_LARGEST_BLOCK", 5)
    patch.setattr(one_pass, "WORKERS", 1)
    patch.setattr(one_pass, "_SETTLE_S", 0.0)
    patch.setattr(Files, "read", interrupted)


@pytest.mark.parametrize(("how", "after"), [(None, 23), (signal.SIGTERM, 0), (signal.SIGTERM, 56), (signal.SIGINT, 23)])
def test_an_interrupted_pass_goes_on_to_the_same_bytes(
    how: signal.Signals | None, after: int, spoilt: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out, resume = (tmp_path / name for name in ("whole", "out", "resume"))
    prepare.write(spoilt, SKIP, whole, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, after, how)
        with pytest.raises(StoppedError if how else Killed, match=how and rf"stopped by {how.name} after \d+ of 59"):
            prepare.write(spoilt, SKIP, out, progress=False, resume=resume)
    assert not out.exists()
    done = json.loads((resume / "progress.json").read_text())["facts"]["done"]
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 59 - done, None)  # one image more than are left
        prepare.write(spoilt, SKIP, out, progress=False, resume=resume)
    assert f"resuming after {done} of 59 images" in capsys.readouterr().err
    assert contents(out) == contents(whole)
    assert not resume.exists()


@pytest.mark.parametrize(("changes", "fingerprint"), [({"seed": 1}, ""), ({"storage_px": 9}, ""), ({}, "other files")])
def test_a_pass_over_something_else_is_said_and_not_gone_on_with(
    changes: dict[str, int], fingerprint: str, spoilt: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError):
        prepare.write(spoilt, DATA, tmp_path / "out", progress=False, resume=tmp_path / "resume")
    changed = SKIP.model_copy(update=changes)
    prepare.write(spoilt, changed, tmp_path / "out", False, tmp_path / "resume", fingerprint)
    assert "starting anew: " in capsys.readouterr().err
    prepare.write(spoilt, changed, tmp_path / "whole", progress=False)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_after_a_refusal_no_image_is_read_again_to_skip_the_bad_ones(spoilt: Source, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        prepare.write(spoilt, DATA, tmp_path / "out", progress=False, resume=tmp_path / "resume")
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 0, None)
        prepare.write(spoilt, SKIP, tmp_path / "out", progress=False, resume=tmp_path / "resume")
    assert sorted(os.listdir(tmp_path)) == ["out"]


def test_a_process_that_is_killed_is_said(spoilt: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_LARGEST_BLOCK", 5)
    monkeypatch.setattr(one_pass, "WORKERS", 2)
    monkeypatch.setattr(Files, "read", lambda self, index: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(PupilError, match="a process that reads images was killed, most likely because memory ran out"):
        prepare.write(spoilt, SKIP, tmp_path / "out", progress=False)
    assert not list(tmp_path.iterdir())


def test_a_signal_to_the_whole_group_is_a_request_to_stop(
    spoilt: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end_all(self: Files, index: int) -> None:
        try:
            (tmp_path / "asked").touch(exist_ok=False)
        except FileExistsError:  # the other reader was here first
            time.sleep(60)
        for process in (os.getppid(), os.getpid()):
            os.kill(process, signal.SIGTERM)

    monkeypatch.setattr(reading, "_LARGEST_BLOCK", 5)
    monkeypatch.setattr(one_pass, "WORKERS", 2)
    monkeypatch.setattr(Files, "read", end_all)
    with pytest.raises(StoppedError, match="stopped by SIGTERM after 0 of 59 images"):
        prepare.write(spoilt, SKIP, tmp_path / "out", progress=False, resume=tmp_path / "resume")


def test_the_page_on_the_audit_knows_every_kind_and_setting() -> None:
    page = (ROOT / "docs/data-audit.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\| (\w+) \|", page, re.MULTILINE))[1:] == KINDS
    (snippet,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    shown = parse(params.Params, YAML(typ="safe", pure=True).load(snippet), "", "docs/data-audit.md")
    assert shown.data.on_bad == "skip"
    assert f"the {TINY_NAMED} smallest are named" in page
    assert IMBALANCE == 10
    assert "less than a tenth" in page
