"""A folder as data and back."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.sweep.packing import EVALUATED, pack, pack_and_remove, unpack
from pipeline.system.errors import PupilError


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_unpacked_is_what_was_packed(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for name, content in (("a.npy", b"\x00\xff\n\r"), ("train/b", b""), ("train/deep/c", bytes(range(256)))):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(content)
    (there / "train").mkdir(parents=True)
    (there / "train/b").write_bytes(b"of an earlier time")
    (there / "mine").write_bytes(b"stays")
    assert unpack(pack(here), there) == there
    assert contents(there) == contents(here) | {"mine": b"stays"}


def test_a_folder_that_was_sent_away_is_gone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/file").write_bytes(b"x")
    assert list(pack_and_remove(tmp_path / "out")) == ["file"]
    assert not (tmp_path / "out").exists()


def test_a_file_that_cannot_be_written_leaves_the_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"earlier")
    (tmp_path / "a").chmod(0o600)
    files = pack(tmp_path)
    (tmp_path / "b").write_bytes(b"a file where a folder is needed")
    with pytest.raises(PupilError, match="could not be written"):
        unpack({"b/c": files["a"]}, tmp_path)
    assert contents(tmp_path) == {"a": b"earlier", "b": b"a file where a folder is needed"}


def test_what_says_that_a_step_is_done_comes_last(tmp_path: Path) -> None:
    content = np.zeros(1, np.uint8)
    (tmp_path / "z").write_bytes(b"a file where a folder is needed")
    with pytest.raises(PupilError, match="could not be written"):
        unpack({EVALUATED: content, "model.safetensors": content, "z/last": content}, tmp_path)
    assert not (tmp_path / EVALUATED).exists()


def test_what_killed_processes_leave_is_not_sent(tmp_path: Path) -> None:
    for name in ("model.safetensors", ".model.safetensors.7.partial", ".tmpAbCdEf"):
        (tmp_path / name).write_bytes(b"x")
    assert list(pack(tmp_path)) == ["model.safetensors"]
