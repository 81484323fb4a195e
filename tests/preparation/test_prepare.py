"""prepare: same seed same bytes, nothing half-written ever looks finished, and unfit sources are refused in words."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.data import arrays, card
from pipeline.preparation import audit, decode, divide, one_pass, prepare, reading
from pipeline.preparation.decode import BadImageError
from pipeline.preparation.source import Records, Source
from pipeline.settings.data import Data
from pipeline.system import files, registry
from pipeline.system.errors import DataError, PupilError
from pipeline.system.growing import Growing

ROOT = Path(__file__).parents[2]
DATA = Data(image_px=8, val_fraction=0.25)


@dataclass(frozen=True)
class Toy:
    """Noise images (10, 12), another for each record; those of `torn` cannot be read."""

    labels: NDArray[np.int64]
    torn: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> NDArray[np.uint8]:
        if index in self.torn:
            raise BadImageError(self.name(index), "truncated", "torn")
        return np.random.default_rng(index).integers(0, 256, (10, 12, 3), dtype=np.uint8)

    def path(self, index: int) -> None:
        return None

    def name(self, index: int) -> str:
        return f"toy {index}"


def toy(
    train: Sequence[int], test: Sequence[int] = (0, 1), val: Sequence[int] | None = None, names: str = "ab"
) -> Source:
    """A source with these class numbers in its splits."""
    given = {"train": train, "test": test, **({} if val is None else {"val": val})}
    splits: dict[str, Records] = {name: Toy(np.array(labels, dtype=np.int64)) for name, labels in given.items()}
    return Source(tuple(names), splits, "CC0")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_written_is_what_the_card_says(tmp_path: Path) -> None:
    source = toy([0, 1] * 40)
    written = prepare.write(source, DATA, tmp_path / "out", progress=False)
    assert card.load(tmp_path / "out") == written
    assert written.counts == {"train": 60, "val": 20, "test": 2}
    assert written.class_counts == {"train": (30, 30), "val": (10, 10), "test": (1, 1)}
    assert (written.labels, written.licence, written.image_px) == (("a", "b"), "CC0", 8)
    assert {name: files.sha256(tmp_path / "out" / name) for name in written.sha256} == written.sha256
    assert set(contents(tmp_path / "out")) == {
        *("audit.json", "card.json", "unlabelled/card.json"),
        *written.sha256,
    }
    train = arrays.Split.load(tmp_path / "out", "train", written)
    scaled = np.asarray(train.images, dtype=np.float64).reshape(-1, 3) / 255
    np.testing.assert_allclose(written.normalization.mean, scaled.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(written.normalization.std, scaled.std(axis=0), rtol=1e-12)


def test_images_keep_their_labels_over_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_LARGEST_BLOCK", 3)
    labels = np.random.default_rng(0).integers(0, 2, 50)
    source = toy(labels.tolist())
    written = prepare.write(source, DATA, tmp_path / "out", progress=False)
    kept, held_out = divide.hold_out(labels, DATA.val_fraction, DATA.seed)
    for name, order in (("train", kept), ("val", held_out)):
        split = arrays.Split.load(tmp_path / "out", name, written)
        np.testing.assert_array_equal(split.labels, labels[order])
        for pixels, index in zip(split.images, order, strict=True):
            np.testing.assert_array_equal(pixels, decode.square(source.splits["train"].read(int(index)), 8))


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    config = {"digit_pairs": {"train": 120, "val": 100, "test": 100}}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepare.prepare(Data(seed=seed, sources=config), tmp_path / name, progress=False)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_a_validation_split_of_the_source_is_taken_as_it_is(tmp_path: Path) -> None:
    written = prepare.write(toy([0, 1, 1], val=[1, 1]), DATA, tmp_path / "out", progress=False)
    assert written.class_counts == {"train": (1, 2), "val": (0, 2), "test": (1, 1)}


def test_train_includes_val_and_val_stays_as_it_is(tmp_path: Path) -> None:
    for name, source in (("drawn", toy([0, 1] * 40)), ("own", toy([0, 1, 1], val=[1, 1]))):
        apart, joined = (
            prepare.write(
                source,
                DATA.model_copy(update={"train_includes_val": flag}),
                tmp_path / name / str(flag),
                progress=False,
            )
            for flag in (False, True)
        )
        train, val = (arrays.Split.load(tmp_path / name / "False", split, apart) for split in ("train", "val"))
        both = arrays.Split.load(tmp_path / name / "True", "train", joined)
        np.testing.assert_array_equal(both.images, np.concatenate([train.images, val.images]))
        np.testing.assert_array_equal(both.labels, np.concatenate([train.labels, val.labels]))
        assert (joined.train_includes_val, apart.train_includes_val) == (True, False)
        assert joined.counts == apart.counts | {"train": apart.counts["train"] + apart.counts["val"]}
        assert {path: digest for path, digest in joined.sha256.items() if not path.startswith("train")} == {
            path: digest for path, digest in apart.sha256.items() if not path.startswith("train")
        }
        scaled = np.asarray(both.images, dtype=np.float64).reshape(-1, 3) / 255
        np.testing.assert_allclose(joined.normalization.mean, scaled.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(joined.normalization.std, scaled.std(axis=0), rtol=1e-12)


def test_train_includes_val_is_judged_by_all_that_is_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Class c has images in val alone, and class b few in train.
    source = toy([0] * 40 + [1], val=[1] * 9 + [2] * 9, test=[0, 1, 2], names="abc")
    with pytest.raises(DataError, match="1 classes occur in val but not in train"):
        prepare.write(source, DATA, tmp_path / "apart", progress=False)
    prepare.write(source, DATA.model_copy(update={"train_includes_val": True}), tmp_path / "joined")
    assert "val is trained on too (data.train_includes_val)" in capsys.readouterr().out
    found = json.loads((tmp_path / "joined/audit.json").read_text())
    assert (found["train_includes_val"], found["counts"]["imbalance"]) == (True, 0)


def test_train_includes_val_leaves_out_what_the_audit_leaves_out(tmp_path: Path) -> None:
    source = torn(toy([0, 1] * 40), "train", *range(8))
    data = DATA.model_copy(update={"train_includes_val": True, "on_bad": "skip"})
    written = prepare.write(source, data, tmp_path / "out", progress=False)
    assert written.counts["train"] == 72
    both = arrays.Split.load(tmp_path / "out", "train", written)
    assert len(np.unique(np.asarray(both.images).reshape(72, -1), axis=0)) == 72


def test_validation_is_drawn_class_by_class() -> None:
    random = np.random.default_rng(0)
    for seed in range(50):
        labels = random.integers(0, random.integers(1, 9), random.integers(1, 200))
        fraction = float(random.uniform(0.01, 0.99))
        kept, held_out = divide.hold_out(labels, fraction, seed)
        np.testing.assert_array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(len(labels)))
        for label in np.unique(labels):
            num, out = int((labels == label).sum()), int((labels[held_out] == label).sum())
            expected = min(max(round(fraction * num), 1), num - 1) if num >= 2 else 0
            assert out == expected
        again = divide.hold_out(labels, fraction, seed)
        np.testing.assert_array_equal(again[1], held_out)


def test_another_seed_draws_another_validation_split() -> None:
    labels = np.zeros(100, dtype=np.int64)
    first, second = (divide.hold_out(labels, 0.5, seed)[1] for seed in (0, 1))
    assert set(first.tolist()) != set(second.tolist())


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (toy([]), "The train split holds no image"),
        (toy([0, 1], test=[]), "The test split holds no image"),
        (toy([0, 1], val=[]), "The val split holds no image"),
        (toy([1, 1, 1], test=[1]), "All 3 train images are of one class, 'b'"),
        (toy([0, 1, 1], test=[0, 2, 3], names="abcd"), "2 classes occur in test but not in train.*: c, d"),
        (toy([0, 2, 2], test=[0, 2], names="abc"), "1 of 3 classes have no image in train: b"),
        (toy([], test=[0, 5]), "The train split holds no image.* The test split has class numbers from 0 to 5"),
        (toy([0, 2, 2], test=[3], names="abcd"), "1 classes occur in test.*: d.* 1 of 4 classes .* in train: b"),
        (toy([0, 1, 5]), "class numbers from 0 to 5; with 2 class names, expected 0 to 1"),
        (toy([0, 1, -1]), "class numbers from -1 to 1"),
        (toy([0, 1]), "No class of train has two images"),
    ],
)
def test_an_unfit_source_is_refused(source: Source, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words) as caught:
        prepare.write(source, DATA, tmp_path / "out", progress=False)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def torn(source: Source, split: str, *records: int) -> Source:
    """The source with these records of a split truncated."""
    return Source(source.labels, {**source.splits, split: Toy(source.splits[split].labels, frozenset(records))}, None)


def test_every_unreadable_image_is_counted_and_the_audit_names_all(tmp_path: Path) -> None:
    source = torn(toy([0, 1] * 30), "train", *range(0, 50, 2))
    refused = tmp_path / "out.audit.json"
    words = rf"25 of 62 images cannot be read \(25 truncated\): toy \d+: torn; .* and 20 more.* is in {refused}"
    with pytest.raises(DataError, match=words):
        prepare.write(source, DATA, tmp_path / "out", progress=False)
    assert os.listdir(tmp_path) == [refused.name]
    named = [it.name for it in audit.Audit.model_validate_json(refused.read_text()).findings if it.kind == "truncated"]
    assert sorted(named) == sorted(f"toy {number}" for number in range(0, 50, 2))
    prepare.write(toy([0, 1] * 30), DATA, tmp_path / "out", progress=False)
    assert os.listdir(tmp_path) == ["out"]


def test_images_that_are_all_alike_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "read", lambda self, index: np.full((8, 8, 3), 7, dtype=np.uint8))
    with pytest.raises(DataError, match="Every red value of every train image is 7"):
        prepare.write(toy([0, 1] * 4), DATA, tmp_path / "out", progress=False)


def test_an_earlier_artefact_is_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare.write(toy([0, 1] * 4), DATA, out, progress=False)
    (out / "foreign").write_text("left by someone")
    prepare.write(toy([0, 1] * 5), DATA, out, progress=False)
    assert card.load(out).counts["train"] == 8
    assert not (out / "foreign").exists()
    assert os.listdir(tmp_path) == ["out"]


def test_a_failure_leaves_the_earlier_artefact(tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare.write(toy([0, 1] * 4), DATA, out, progress=False)
    before = contents(out)
    with pytest.raises(DataError):
        prepare.write(torn(toy([0, 1] * 4), "test", 1), DATA, out, progress=False)
    assert contents(out) == before


def run(script: str, *args: object) -> "subprocess.Popen[str]":
    """A Python of its own in the repository, with its output as text."""
    command = [sys.executable, "-c", script, *map(str, args)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from tests.preparation.test_prepare import DATA, prepare, toy
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    prepare.write(toy([0, 1] * 1000), DATA, Path(sys.argv[1]), progress=False)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("limit_bytes", [0, 10_000, 100_000])  # the first byte, labels, images
def test_a_disk_that_refuses_leaves_the_earlier_artefact(tmp_path: Path, limit_bytes: int) -> None:
    out = tmp_path / "out"
    prepare.write(toy([0, 1] * 4), DATA, out, progress=False)
    before = contents(tmp_path)
    process = run(FULL_DISK, out, limit_bytes)
    said, errors = process.communicate(timeout=100)
    assert said.startswith(f"PupilError {out} could not be written: File too large ("), errors
    assert "MiB free there" in said
    assert "untouched" in said
    assert contents(tmp_path) == before
    assert os.listdir(tmp_path) == ["out"]


STUCK = """
import sys, time
from pathlib import Path
from tests.preparation.test_prepare import DATA, Toy, prepare, toy
read = Toy.read
def slow(self, index):
    if index > 300:
        print("stuck", flush=True)
        time.sleep(100)
    return read(self, index)
Toy.read = slow
prepare.write(toy([0, 1] * 1000), DATA, Path(sys.argv[1]), progress=False)
"""


def test_a_killed_run_leaves_nothing_finished_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = run(STUCK, out)
    assert process.stdout is not None
    assert process.stdout.readline() == "stuck\n"
    alive = tmp_path / f".out.{os.getppid()}.partial"
    alive.mkdir()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=100)
    assert not out.exists()
    assert (tmp_path / f".out.{process.pid}.partial" / "pass").is_dir()
    with pytest.raises(DataError, match="holds no prepared data"):
        card.load(out)
    prepare.write(toy([0, 1] * 4), DATA, out, progress=False)
    assert sorted(os.listdir(tmp_path)) == [alive.name, "out"], "what a living process writes stays"


def test_a_kill_between_the_two_renames_is_mended(tmp_path: Path) -> None:
    process = run("")
    process.communicate(timeout=100)
    out = tmp_path / "out"
    prepare.write(toy([0, 1] * 4), DATA, out, progress=False)
    before = contents(out)
    out.rename(tmp_path / f".out.{process.pid}.replaced")
    with pytest.raises(DataError):
        prepare.write(torn(toy([0, 1] * 4), "test", 0), DATA, out, progress=False)
    assert contents(out) == before
    assert sorted(os.listdir(tmp_path)) == ["out", "out.audit.json"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PupilError, match="out could not be written: File exists"):
        prepare.write(toy([0, 1] * 4), DATA, tmp_path / "file" / "out", progress=False)


@pytest.fixture
def hashing_stops(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Ctrl-C comes while the test split is hashed; undone by `undo`."""
    hashed = files.sha256

    def stopped(path: Path) -> str:
        if path.parent.name == "test":
            raise KeyboardInterrupt
        return hashed(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "sha256", stopped)
        yield patch


JOINED = DATA.model_copy(update={"train_includes_val": True})


@pytest.mark.parametrize("has_links", [True, False])
def test_a_stop_after_the_pass_loses_none_of_it(
    has_links: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hashing_stops: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    source, parts, resume = toy([0, 1] * 8), tmp_path / "parts", tmp_path / "resume"
    with pytest.raises(KeyboardInterrupt):
        prepare.write(source, JOINED, parts, progress=False, resume=resume)
    hashing_stops.undo()
    prepare.write(source, JOINED, parts, progress=False, resume=resume)
    said = f"resuming after 18 of 18 images, from {resume}" if has_links else f"starting anew: {resume} lacks "
    assert said in capsys.readouterr().err
    prepare.write(source, JOINED, tmp_path / "whole", progress=False)
    assert contents(parts) == contents(tmp_path / "whole")
    assert not resume.exists()


def test_a_kill_before_the_pass_is_forgotten_leaves_what_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: object) -> None:
        raise KeyboardInterrupt

    source, out, resume = toy([0, 1] * 8), tmp_path / "out", tmp_path / "resume"
    monkeypatch.setattr(Growing, "clear", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare.write(source, JOINED, out, progress=False, resume=resume)
    before = contents(out)
    monkeypatch.setattr(one_pass.OnePass, "looks", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare.write(source, JOINED, out, progress=False, resume=resume)
    assert contents(out) == before


def test_a_resume_folder_that_takes_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Growing, name: str, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Growing, "append", full)
    with pytest.raises(PupilError, match=r"^\S+/resume could not be written: No space left on device \(\d+ MiB free"):
        prepare.write(toy([0, 1] * 4), DATA, tmp_path / "out", progress=False, resume=tmp_path / "resume")


def test_shared_memory_that_takes_nothing_is_named_and_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def closed(*args: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(reading, "_LARGEST_BLOCK", 1)
    monkeypatch.setattr(one_pass, "WORKERS", 2)
    monkeypatch.setattr(reading, "ProcessPoolExecutor", closed)
    prepare.write(toy([0, 1] * 4), DATA, tmp_path / "out", progress=False)
    words = "so threads do, which is slower: Permission denied. Processes need a few bytes of /dev/shm"
    assert words in capsys.readouterr().err


def test_progress_in_a_log_is_quiet_when_quick(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare.write(toy([0, 1] * 4), DATA, tmp_path / "out")
    assert capsys.readouterr().err == ""


def test_preparing_starts_without_heavy_imports() -> None:
    sources = [f"pipeline.sources.{name}" for name in registry.names("pipeline.sources")]
    script = f"import sys, pipeline.preparation.prepare, {', '.join(sources)}"
    script += "; print({'torch', 'datasets', 'sklearn'} & {*sys.modules})"
    said, errors = run(script).communicate(timeout=100)
    assert said == "set()\n", errors
