"""What is written by rename: files alone are replaced; links, devices and pipes stay what they are."""

import errno
import os
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.system.errors import PupilError
from pipeline.system.files import replacing, replacing_all, write_json
from pipeline.system.growing import Growing
from pipeline.system.scratch import replacing_folder
from serve import files


def by_pipeline(path: Path, text: str) -> None:
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


WRITERS = pytest.mark.parametrize("write", [by_pipeline, files.write_text])


@WRITERS
def test_a_file_is_replaced_whole(tmp_path: Path, write) -> None:
    path = tmp_path / "new" / "file"
    write(path, "one")
    before = path.stat().st_ino
    write(path, "two")
    assert path.read_text() == "two"
    assert path.stat().st_ino != before
    assert os.listdir(path.parent) == ["file"]


@WRITERS
def test_a_link_stays_one(tmp_path: Path, write) -> None:
    (tmp_path / "there").mkdir()
    for name in ("there/file", "there/none yet"):
        link = tmp_path / f"link to {name.replace('/', ' ')}"
        link.symlink_to(name)
        write(link, "new")
        assert link.is_symlink()
        assert (tmp_path / name).read_text() == "new"
    assert sorted(os.listdir(tmp_path / "there")) == ["file", "none yet"]


@WRITERS
def test_a_pipe_and_a_device_are_written_to(tmp_path: Path, write) -> None:
    pipe, came = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: came.append(pipe.read_text()))
    reader.start()
    write(pipe, "through it")
    reader.join(20)
    assert came == ["through it"]
    assert pipe.is_fifo()
    write(Path("/dev/null"), "away")
    assert Path("/dev/null").is_char_device()
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="directory"):
        files.write_text(tmp_path, "x")
    with pytest.raises(PupilError, match="could not be written"):
        write_json(tmp_path, {})
    assert os.listdir(tmp_path) == []


def test_of_two_that_belong_together_none_is_written_where_one_fails(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("old")
    with suppress(ZeroDivisionError), replacing_all([tmp_path / "a", tmp_path / "b"]) as (first, _):
        first.write_text("new")
        raise ZeroDivisionError
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old", "b": "old"}


def test_a_link_to_what_is_write_protected_is_replaced_and_that_is_not_touched(tmp_path: Path) -> None:
    kept, link = tmp_path / "kept", tmp_path / "link"
    kept.write_text("old")
    kept.chmod(0o444)
    link.symlink_to(kept)
    by_pipeline(link, "new")
    assert (kept.read_text(), link.read_text(), link.is_symlink()) == ("old", "new", False)


def test_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "old").write_text("")
    (tmp_path / "link").symlink_to("there")
    with replacing_folder(tmp_path / "link") as scratch:
        (scratch / "new").write_text("")
    assert (tmp_path / "link").is_symlink()
    assert os.listdir(tmp_path / "there") == ["new"]
    assert sorted(os.listdir(tmp_path)) == ["link", "there"]


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    dead, alive = (tmp_path / f".file.{pid}.partial" for pid in (ended.pid, os.getppid()))
    other = tmp_path / f".another.{ended.pid}.partial"
    for path in (dead, alive, other):
        path.write_text("half")
    by_pipeline(tmp_path / "file", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"file", alive.name, other.name}


@pytest.mark.parametrize(("refusal", "stays"), [(errno.EXDEV, True), (errno.EPERM, False)])
def test_a_finished_file_is_handed_to_another_disk(
    refusal: int, stays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(os, "link", refuse)
    growing = Growing(tmp_path / "pass", "key")
    growing.start({"rows": b"abc"}, {})
    growing.hand_over("rows", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"abc"
    # Where the pass is given up now, nothing of it is lost if the rows are there.
    assert (tmp_path / "pass" / "rows").exists() == stays
