"""Walking a folder: links, circles and closed doors; and the fingerprint by which a change of data.path is seen."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.preparation.tree import Tree, fingerprint, printable, walk
from pipeline.settings.data import Data
from pipeline.sources import folder as source
from pipeline.system.errors import DataError
from stages import _run
from stages.preflight import preflight
from tests import toy

NOBODY = 65534


def files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for path in [folder, *folder.rglob("*")]:  # for nobody too, whatever the umask
        path.chmod(0o755)
    return folder


@contextlib.contextmanager
def closed_to_us(folder: Path) -> Iterator[None]:
    """Take all permissions of a folder away; root, whom none stops, becomes nobody for the while."""
    if os.geteuid() == 0:
        try:
            os.seteuid(NOBODY)
            os.seteuid(0)
        except OSError:
            pytest.skip("root may read everything here and cannot become somebody else")
    folder.chmod(0)
    try:
        if os.getuid() == 0:
            os.seteuid(NOBODY)
        yield
    finally:
        os.seteuid(os.getuid())
        folder.chmod(0o755)


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that everybody may reach; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    if any(not parent.stat().st_mode & 0o001 for parent in folder.parents):
        pytest.skip(f"{folder.parent} is closed to others")
    yield folder
    shutil.rmtree(folder)


def test_names_come_sorted_and_those_of_systems_apart(tmp_path: Path) -> None:
    clutter = (
        *(".DS_Store", ".git/x", ".ipynb_checkpoints/1.jpg", "@eaDir/a/1.jpg/thumb.jpg", "__MACOSX/a/1.jpg"),
        *("a/$Recycle.Bin/S-1/1.jpg", "a/._1.jpg", "b/#recycle/1.jpg", "b/System Volume Information/x", "b/Thumbs.db"),
        "desktop.ini",
    )
    own = ("#1/1.jpg", "$100/1.jpg", "0.png", "@home/1.jpg", "__a__/1.jpg", "a/9.txt", "a/c/1.jpg", "b/2.jpg")
    files(tmp_path, *reversed(own), *clutter)
    (tmp_path / "lost+found").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    assert walk(tmp_path) == Tree(
        ("#1", "$100", "@home", "__a__", "a", "a/c", "b"), own, tuple(sorted(clutter)), (), ()
    )


def test_what_a_system_closes_or_links_stops_nobody(open_place: Path) -> None:
    files(open_place, "cat/1.jpg", "lost+found/2.jpg")
    (open_place / ".Trashes").symlink_to("cat")
    with closed_to_us(open_place / "lost+found"):
        assert walk(open_place) == Tree(("cat",), ("cat/1.jpg",), (".Trashes",), (), ())


def test_names_are_printed_on_one_line() -> None:
    assert printable("a\nb\x1b[31m\udcff \u2028caf\xe9 \U0001f436") == "a\\nb\\x1b[31m\\xff \\u2028caf\xe9 \U0001f436"


def test_links_are_followed_once_and_circles_are_named(tmp_path: Path) -> None:
    files(tmp_path / "pool", "1.jpg")
    files(tmp_path / "data/cat", "2.jpg")
    for link, target in (
        ("data/dog", "../pool"),
        ("data/a_first", "cat"),
        ("data/cat/up", "../.."),
        ("data/cat/root", ".."),
        ("data/cat/self.jpg", "self.jpg"),
        ("data/cat/gone.jpg", "nowhere.jpg"),
    ):
        (tmp_path / link).symlink_to(target)
    tree = walk(tmp_path / "data")
    # Through `up` the folder above is reached, and from there `data` and `pool` again.
    assert tree.circles == ("a_first", "cat/root", "cat/up/data", "cat/up/pool")
    assert tree.files == ("cat/2.jpg", "cat/gone.jpg", "cat/self.jpg", "dog/1.jpg")


def test_a_folder_that_may_not_be_read_is_named(open_place: Path) -> None:
    files(open_place, "cat/1.jpg", "dog/2.jpg")
    with closed_to_us(open_place / "cat"):
        tree = walk(open_place)
        assert tree.closed == ("cat (Permission denied)",)
        assert tree.files == ("dog/2.jpg",)
        assert fingerprint(open_place)[0] == 1
        data = Data(source="folder", path=str(open_place))
        with pytest.raises(
            DataError, match=rf"of data\.path {open_place} may be read: cat \(Permission denied\)\. Give permission"
        ):
            source.open_source(source.Config(), data)


def test_a_fingerprint_sees_every_change_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = files(tmp_path / "photos", "cat/1.jpg", "dog/2.jpg")
    (folder / "cat/gone.jpg").symlink_to("nowhere.jpg")
    (folder / "cat/circle").symlink_to("..")
    seen = [fingerprint(folder)]
    assert seen[0][0] == 3
    monkeypatch.chdir(tmp_path)
    assert fingerprint(Path("photos")) == seen[0]
    (folder / ".DS_Store").touch()
    assert fingerprint(folder) == seen[0]
    for change in (
        lambda: (folder / "cat/1.jpg").write_text("longer"),
        lambda: os.utime(folder / "dog/2.jpg", (1, 1)),
        lambda: (folder / "cat/1.jpg").rename(folder / "cat/3.jpg"),
        lambda: (folder / "cat/nowhere.jpg").touch(),
        lambda: (folder / "cat/circle").unlink(),
        lambda: shutil.rmtree(folder / "dog"),
    ):
        change()
        seen.append(fingerprint(folder))
    assert len({digest for _, digest in seen}) == len(seen)


def test_a_fingerprint_may_hang_on_some_names_alone(tmp_path: Path) -> None:
    folder = files(tmp_path / "photos", "cat/1.jpg", "cat/1.txt")
    data = Data(source="folder", path=str(folder))
    seen = source.fingerprint(source.Config(), data)
    assert seen[0] == 1
    (folder / "cat/1.txt").write_text("longer")
    (folder / "notes.md").touch()
    assert source.fingerprint(source.Config(), data) == seen
    files(folder, "cat/2.jpg")
    assert source.fingerprint(source.Config(), data) != seen


def test_what_prepare_writes_below_data_path_is_not_seen(tmp_path: Path) -> None:
    files(tmp_path, "cat/1.jpg", "prepared/card.json", "prepared/audit.json", "prepared/train/images.npy")
    files(tmp_path, "prepared.audit.json")
    assert walk(tmp_path) == Tree(("cat",), ("cat/1.jpg",), (), (), ())


@pytest.mark.slow
def test_100_000_files_are_found(tmp_path: Path) -> None:
    # In memory where there is such a place: on some disks making the files takes ten times as long as finding them.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as name:
        for label in range(10):
            os.mkdir(f"{name}/{label}")
            for number in range(10_000):
                os.close(os.open(f"{name}/{label}/{number}.jpg", os.O_CREAT))
        opened = source.open_source(source.Config(), Data(source="folder", path=name))
        assert fingerprint(Path(name))[0] == 100_000
    assert [len(split) for split in opened.splits.values()] == [80_000, 20_000]


def test_images_that_are_gone_after_prepare_change_nothing_for_later_stages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files(tmp_path / "photos", "cat/1.jpg")
    shutil.copy(toy.ROOT / "params.yaml", tmp_path)
    toy.edit(tmp_path, toy.SMALL | {"data.source": "folder", "data.path": "photos"})

    def found() -> str:
        preflight(Path("params.yaml"), Path("out"))
        return Path("out/source.json").read_text()

    before = found()
    shutil.rmtree("photos")
    assert found() == before
    assert "note: data.path photos is gone. What was prepared from it stays in use" in capsys.readouterr().out
    toy.edit(tmp_path, {"data.path": "elsewhere"})
    with pytest.raises(DataError, match=r"data\.path elsewhere does not exist"):
        found()
    # DVC deletes what a stage leaves before it runs again, unless it is told not to.
    outs = YAML(typ="safe", pure=True).load(toy.ROOT / "dvc.yaml")["stages"]["preflight"]["outs"]
    assert {"artifacts/preflight/source.json": {"persist": True}} in outs


def test_a_stage_names_what_the_system_keeps_from_it(
    open_place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def look(file: Path) -> None:
        """A stage that reads a file."""
        file.read_bytes()

    files(open_place, "closed/weights.pth")
    monkeypatch.setattr(sys, "argv", ["look", "--file", str(open_place / "closed/weights.pth")])
    with closed_to_us(open_place / "closed"), pytest.raises(SystemExit) as end:
        _run.main(look)
    assert end.value.code == 1
    said = f"error: {open_place}/closed/weights.pth: Permission denied. Give this user access, or name another path.\n"
    assert capsys.readouterr().err == said
