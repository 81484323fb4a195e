"""The huggingface source on toy Parquet and image folders: offline, leaving nothing behind, wrong input named."""

import errno
import io
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow  # type: ignore[import-untyped]  # ships no types
import pytest
from PIL import Image
from pyarrow import parquet

from pipeline.preparation import prepare
from pipeline.preparation.source import Source
from pipeline.settings.data import Data
from pipeline.sources import huggingface
from pipeline.sources.huggingface import Config
from pipeline.system.errors import DataError, ParamsError, PupilError
from tests import pictures

ROOT = Path(__file__).parents[2]
NAMES = datasets.ClassLabel(names=["cat", "dog"])


@pytest.fixture(autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go in these tests."""
    folder = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def png(number: int) -> bytes:
    """A file of noise, another for each number."""
    file = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


def shard(folder: Path, split: str, labels: Sequence[Any], kind: Any = NAMES, torn: Sequence[int] = ()) -> None:
    """Write one Parquet file as the Hub has them; images of the rows `torn` lack their second half."""
    files = [png(row) for row in range(len(labels))]
    cells = [
        {"bytes": data[: len(data) // 2] if row in torn else data, "path": f"{row}.png"}
        for row, data in enumerate(files)
    ]
    features = datasets.Features({"image": datasets.Image(), "label": kind})
    table = datasets.Dataset.from_dict({"image": cells, "label": list(labels)}, features=features)
    folder.mkdir(exist_ok=True)
    table.to_parquet(folder / f"{split}-00000-of-00001.parquet")


def opened(folder: Path, **config: Any) -> Source:
    """The source on that folder."""
    return huggingface.open_source(Config(**config), Data(source="huggingface", path=str(folder)))


def test_a_folder_is_read_offline_and_leaves_nothing(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard(tmp_path / "pets", "train", [1, 0, 1])
    shard(tmp_path / "pets", "test", [0, 1])
    calls: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: calls.append(address))
    before = os.listdir(tmp_path / "pets")
    source = opened(tmp_path / "pets")
    assert not calls
    assert os.listdir(tmp_path / "pets") == before
    assert not os.listdir(scratch)
    assert source.labels == ("cat", "dog")
    assert set(source.splits) == {"train", "test"}
    train = source.splits["train"]
    assert train.labels.tolist() == [1, 0, 1]
    assert train.labels.dtype == np.int64
    assert train.name(2) == "train row 2 (2.png)"
    assert train.path(2) is None
    for row in (2, 0, 1):
        np.testing.assert_array_equal(train.read(row), np.asarray(Image.open(io.BytesIO(png(row)))))


def test_prepare_reads_it_alike_each_time(tmp_path: Path) -> None:
    shard(tmp_path / "pets", "train", [0, 1] * 20)
    shard(tmp_path / "pets", "test", [0, 1])
    data = Data(source="huggingface", path=str(tmp_path / "pets"), image_px=8)
    cards = [prepare.prepare(data, tmp_path / name, progress=False) for name in ("a", "b")]
    assert cards[0] == cards[1]
    assert cards[0].counts == {"train": 36, "val": 4, "test": 2}


def test_truncated_images_are_named_by_row(tmp_path: Path) -> None:
    shard(tmp_path / "pets", "train", [0, 1] * 5, torn=[3, 8])
    shard(tmp_path / "pets", "test", [0, 1], torn=[1])
    data = Data(source="huggingface", path=str(tmp_path / "pets"), image_px=8)
    with pytest.raises(DataError, match="3 of 12 images cannot be read") as caught:
        prepare.prepare(data, tmp_path / "out", progress=False)
    for name in ("train row 3 (3.png): ", "train row 8 (8.png): ", "test row 1 (1.png): "):
        assert name in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_split_of_its_own_for_validation(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        shard(tmp_path / "pets", split, [0, 1])
    assert set(opened(tmp_path / "pets").splits) == {"train", "test"}
    assert set(opened(tmp_path / "pets", val_split="validation").splits) == {"train", "val", "test"}


def test_a_test_split_is_drawn_where_there_is_none(tmp_path: Path) -> None:
    shard(tmp_path / "pets", "train", [0, 1] * 10)
    with pytest.raises(DataError, match=r"test_split is 'test'; the data set has these splits: train"):
        opened(tmp_path / "pets")
    source = opened(tmp_path / "pets", test_split=None, test_fraction=0.3)
    names = {split: [records.name(i) for i in range(len(records))] for split, records in source.splits.items()}
    assert sorted(names["train"] + names["test"]) == sorted(f"train row {row} ({row}.png)" for row in range(20))
    for records in source.splits.values():
        for index, label in enumerate(records.labels):
            row = int(records.name(index).split()[2])
            assert label == row % 2
            np.testing.assert_array_equal(records.read(index), np.asarray(Image.open(io.BytesIO(png(row)))))
    assert np.bincount(source.splits["test"].labels).tolist() == [3, 3]


def test_only_a_train_split_names_what_to_set(tmp_path: Path) -> None:
    shard(tmp_path / "pets", "train", [0, 1])
    words = (
        r"has these splits: train\. .*If none is for testing, set data\.sources\.huggingface\.test_split: null: then"
    )
    with pytest.raises(DataError, match=words):
        opened(tmp_path / "pets")


def test_names_of_splits_in_other_names_mean_nothing(tmp_path: Path) -> None:
    names = [f"{kind}/{kind}_{word}{n}.png" for kind in ("bus", "tram") for word in ("", "train_") for n in range(3)]
    whole = opened(pictures.write(tmp_path / "whole", *names), test_split=None)
    assert sum(map(len, whole.splits.values())) == 12
    words = [
        f"{split}/{kind}/{n}.png" for split in ("train", "test") for kind in ("test_tube", "train_car") for n in (0, 1)
    ]
    split = opened(pictures.write(tmp_path / "split", *words))
    assert {name: len(records) for name, records in split.splits.items()} == {"train": 4, "test": 4}
    assert split.labels == ("test_tube", "train_car")


@pytest.mark.parametrize("name", ["photos [2024]", "all*", "what?", "{a,b}", "\u732b caf\xe9"])
def test_a_path_is_a_path(name: str, tmp_path: Path) -> None:
    shard(tmp_path / "all but these", "train", [0, 1, 0])
    shard(tmp_path / name, "train", [0, 1] * 2)
    shard(tmp_path / name, "test", [0, 1])
    assert [len(records) for records in opened(tmp_path / name).splits.values()] == [4, 2]


@pytest.mark.parametrize("columns", [{}, {"image": "bytes"}])
def test_paths_in_tables_start_at_the_folder(columns: dict[str, str], tmp_path: Path) -> None:
    pictures.write(tmp_path / "pets", "images/train.png", "images/b.png", "images/unnamed.png")
    for split, names in (("train", ["train", "b"]), ("test", ["b", "gone"])):
        paths = [f"images/{name}.png" for name in names]
        if columns:
            cells = pyarrow.array(
                [{"bytes": None, "path": path} for path in paths],
                pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}),
            )
            parquet.write_table(
                pyarrow.table({"image": cells, "label": ["cat", "dog"]}), tmp_path / f"pets/{split}.parquet"
            )
        else:
            lines = [f"{path},{kind}" for path, kind in zip(paths, ("cat", "dog"), strict=True)]
            (tmp_path / f"pets/{split}.csv").write_text("\n".join(["image,label", *lines]) + "\n")
    source = opened(tmp_path / "pets")
    np.testing.assert_array_equal(source.splits["train"].read(1), pictures.noise(1))
    assert source.splits["train"].path(0) == tmp_path / "pets/images/train.png"
    with pytest.raises(DataError, match=r"^test row 1 \(images/gone.png\): there is no such file"):
        source.splits["test"].read(1)
    assert [(group.names, group.meant) for group in source.left_out] == [(("images/unnamed.png",), True)]


def test_image_files_of_the_hub_lie_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures.write(tmp_path, "a.png", "b.png")
    features = datasets.Features({"image": datasets.Image(), "label": NAMES})
    cells = [{"bytes": None, "path": str(tmp_path / name)} for name in ("a.png", "b.png")]
    rows = datasets.Dataset.from_dict({"image": cells, "label": [0, 1]}, features=features)
    fetched = datasets.DatasetDict({"train": rows, "test": rows, "extra": rows})
    monkeypatch.setattr("datasets.load.load_dataset", lambda *args, **options: fetched)
    source = huggingface.open_source(Config(), Data(source="huggingface", path="org/name"))
    np.testing.assert_array_equal(source.splits["test"].read(1), pictures.noise(1))
    assert [group.names for group in source.left_out] == [("extra row 0", "extra row 1")]


def test_images_beside_a_table_that_does_not_name_them_are_counted(tmp_path: Path) -> None:
    pictures.write(tmp_path, *(f"{split}/{number}.png" for split in ("train", "test") for number in range(3)))
    for split in ("train", "test"):
        lines = ('{"file_name": "0.png", "label": "cat"}', '{"file_name": "1.png", "label": "dog"}')
        (tmp_path / split / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    source = opened(tmp_path)
    assert [len(records) for records in source.splits.values()] == [2, 2]
    assert [(group.names, group.meant) for group in source.left_out] == [(("test/2.png", "train/2.png"), True)]


def test_splits_and_tables_that_are_not_read_are_counted(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        shard(tmp_path / "pets", split, [0, 1])
    (tmp_path / "pets/classes.csv").write_text("a,b\n")
    (tmp_path / "pets/LICENSE").touch()
    assert [(len(it.names), it.why) for it in opened(tmp_path / "pets").left_out] == [
        (1, "files are of the split validation, which data.sources.huggingface does not name"),
        (1, "tables do not say in their names of which split they are"),
        (1, "files are neither images nor tables"),
    ]


def test_parts_that_are_missing_are_named(tmp_path: Path) -> None:
    shard(tmp_path / "pets", "train", [0, 1])
    shard(tmp_path / "pets", "test", [0, 1])
    (tmp_path / "pets/train-00000-of-00001.parquet").rename(tmp_path / "pets/train-00001-of-00003.parquet")
    with pytest.raises(DataError, match=r"^Not all parts of the tables .*: train: 1 of 3\. Fetch the others\."):
        opened(tmp_path / "pets")


def test_a_saved_data_set_is_read_where_it_lies(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": NAMES})
    rows = datasets.Dataset.from_dict(
        {"image": [{"bytes": png(n), "path": None} for n in range(2)], "label": [0, 1]}, features=features
    )
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "pets")
    np.testing.assert_array_equal(
        opened(tmp_path / "pets").splits["test"].read(1), np.asarray(Image.open(io.BytesIO(png(1))))
    )


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["", "cat"], r"1 of the 2 classes in column 'label' have no name that can be seen: number 0 \(''\)"),
        (["\u200b ", "cat"], r"1 of the 2 classes in column 'label' .*number 1"),
        (["cat", "cat "], r"column 'label', 1 classes are spelt in more than one way: 'cat' and 'cat '"),
        (["p\xe9lican", "pe\u0301lican"], r"spelt in more than one way: 'pe\\u0301lican' and 'p\\xe9lican'"),
    ],
)
def test_class_names_that_tell_nobody_apart_are_refused(labels: list[str], words: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        shard(tmp_path / "pets", split, labels, datasets.Value("string"))
    with pytest.raises(DataError, match=words):
        opened(tmp_path / "pets")


def test_an_empty_name_in_the_list_of_names_is_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        shard(tmp_path / "pets", split, [0, 1], datasets.ClassLabel(names=["cat", "", "dog"]))
    with pytest.raises(DataError, match=r"list of names for column 'label' .*: number 1 \(''\)"):
        opened(tmp_path / "pets")


def saved(folder: Path, **labels: tuple[Any, list[Any]]) -> None:
    """Write a data set as `save_to_disk` does, each split with a label column of its own kind."""
    splits = {}
    for split, (kind, numbers) in labels.items():
        cells = [{"bytes": png(row), "path": f"{row}.png"} for row in range(len(numbers))]
        features = datasets.Features({"image": datasets.Image(), "label": kind})
        splits[split] = datasets.Dataset.from_dict({"image": cells, "label": numbers}, features=features)
    datasets.DatasetDict(splits).save_to_disk(folder)


def test_splits_with_lists_of_names_of_their_own_agree_by_name(tmp_path: Path) -> None:
    test = datasets.ClassLabel(names=["eel", "dog", "cat"])
    saved(tmp_path, train=(datasets.ClassLabel(names=["cat", "dog", "eel"]), [0, 1, 2, 2]), test=(test, [0, 1, 2]))
    source = opened(tmp_path)
    named = {split: [source.labels[k] for k in records.labels] for split, records in source.splits.items()}
    assert named == {"train": ["cat", "dog", "eel", "eel"], "test": ["eel", "dog", "cat"]}


@pytest.mark.parametrize(
    ("kind", "labels", "words"),
    [
        (datasets.Value("int64"), [0, 1], r"holds class labels in train, integers in test; expected the same"),
        (datasets.ClassLabel(names=["cat", "dog "]), [0, 1], r"spelt in more than one way: 'dog' and 'dog '"),
    ],
)
def test_labels_of_splits_that_do_not_fit_each_other_are_refused(
    kind: Any, labels: list[int], words: str, tmp_path: Path
) -> None:
    saved(tmp_path, train=(NAMES, [0, 1]), test=(kind, labels))
    with pytest.raises(DataError, match=words):
        opened(tmp_path)


def test_letters_are_classes_in_both_cases(tmp_path: Path) -> None:
    for split in ("train", "test"):
        shard(tmp_path / "letters", split, ["a", "A"], datasets.Value("string"))
    assert opened(tmp_path / "letters").labels == ("A", "a")


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    shard(tmp_path / "pets", "train", [0, 1])
    (tmp_path / "pets/test-00000-of-00001.parquet").symlink_to("../blobs/gone")
    with pytest.raises(DataError, match=r"1 files are links that lead nowhere: test-00000-of-00001\.parquet\. Copy"):
        opened(tmp_path / "pets")


def test_a_full_temporary_folder_is_blamed(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard(tmp_path / "pets", "train", [0, 1])
    shard(tmp_path / "pets", "test", [0, 1])

    def full(*args: object, **options: object) -> None:
        raise RuntimeError from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("datasets.load.load_dataset", full)
    words = rf"^The folder {scratch} does not take a copy .*No space left.* MiB free there\)\. Set .* TMPDIR"
    with pytest.raises(PupilError, match=words):
        opened(tmp_path / "pets")
    assert not os.listdir(scratch)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(PupilError, match=r"^No temporary folder can be made, .*No such file.* Set .* TMPDIR"):
        opened(tmp_path / "pets")


def test_a_cache_that_takes_nothing_is_blamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_CACHE_HOME", str(tmp_path / "home/cache"))
    refused = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "home/cache/hub"))

    def closed(*args: object, **options: object) -> None:
        raise refused

    monkeypatch.setattr("datasets.load.load_dataset", closed)
    with pytest.raises(PupilError, match=rf"^The folder {tmp_path}/home/cache does not take what is .* HF_HOME to a"):
        huggingface.open_source(Config(), Data(source="huggingface", path="org/name"))


def test_a_local_folder_is_not_downloaded(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shard(tmp_path / "pets", "train", [0, 1])
    shard(tmp_path / "pets", "test", [0, 1])
    capfd.readouterr()
    opened(tmp_path / "pets")
    assert capfd.readouterr() == ("", "")


def test_a_name_that_the_library_would_take_apart_is_refused(tmp_path: Path) -> None:
    shard(tmp_path / "pets", "train", [0, 1])
    shard(tmp_path / "pets", "test", [0, 1])
    (tmp_path / "pets").rename(tmp_path / "a::b")
    with pytest.raises(DataError, match=r"2 paths hold '::', .*: train-00000-of-00001\.parquet, .* Rename the folder"):
        opened(tmp_path / "a::b")


def test_a_folder_of_image_files(tmp_path: Path) -> None:
    for row, place in enumerate(("train/cat", "train/dog", "test/cat", "test/dog")):
        (tmp_path / "pets" / place).mkdir(parents=True)
        (tmp_path / "pets" / place / "x.png").write_bytes(png(row))
    source = opened(tmp_path / "pets")
    assert source.labels == ("cat", "dog")
    assert source.splits["test"].labels.tolist() == [0, 1]
    assert source.splits["test"].path(1) == tmp_path / "pets/test/dog/x.png"
    np.testing.assert_array_equal(source.splits["test"].read(1), np.asarray(Image.open(io.BytesIO(png(3)))))


@pytest.mark.parametrize(
    ("kind", "train", "names"),
    [("string", ["owl", "ant", "owl"], ("ant", "owl")), ("int64", [10, 9, 10], ("9", "10"))],
)
def test_plain_values_become_classes_in_their_order(
    tmp_path: Path, kind: str, train: list[Any], names: tuple[str, ...]
) -> None:
    shard(tmp_path / "pets", "train", train, datasets.Value(kind))
    shard(tmp_path / "pets", "test", train[:1], datasets.Value(kind))
    source = opened(tmp_path / "pets")
    assert source.labels == names
    assert source.splits["train"].labels.tolist() == [1, 0, 1]
    assert source.splits["test"].labels.tolist() == [1]


def test_a_class_of_test_that_train_lacks_is_named(tmp_path: Path) -> None:
    shard(tmp_path / "pets", "train", ["owl", "ant"] * 2, datasets.Value("string"))
    shard(tmp_path / "pets", "test", ["bee"], datasets.Value("string"))
    data = Data(source="huggingface", path=str(tmp_path / "pets"))
    with pytest.raises(DataError, match=r"1 classes occur in test but not in train.*: bee"):
        prepare.prepare(data, tmp_path / "out", progress=False)


def test_images_stored_as_plain_bytes(tmp_path: Path) -> None:
    for split in ("train", "test"):
        table = datasets.Dataset.from_dict({"image": [png(0), png(1)], "label": ["a", "b"]})
        (tmp_path / "pets").mkdir(exist_ok=True)
        table.cast_column("image", datasets.Value("binary")).to_parquet(tmp_path / "pets" / f"{split}.parquet")
    pixels = opened(tmp_path / "pets").splits["train"].read(1)
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(png(1)))))


def test_a_null_image_is_named(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": NAMES})
    for split in ("train", "test"):
        table = datasets.Dataset.from_dict({"image": [None], "label": [0]}, features=features)
        (tmp_path / "pets").mkdir(exist_ok=True)
        table.to_parquet(tmp_path / "pets" / f"{split}.parquet")
    with pytest.raises(DataError, match="train row 0: the image is null"):
        opened(tmp_path / "pets").splits["train"].read(0)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"image_column": "imag"}, r"image_column is 'imag' \(did you mean 'image'\?\).* columns: image, label"),
        ({"label_column": "fine_label"}, r"label_column is 'fine_label' \(did you mean 'label'\?\).*: image, label"),
        ({"image_column": "label"}, "Column 'label' holds int64; expected images"),
        ({"label_column": "image"}, "Column 'image' holds .*; expected class labels"),
        ({"test_split": "tset"}, r"test_split is 'tset' \(did you mean 'test'\?\); .* splits: train, test"),
        ({"val_split": "val"}, "val_split is 'val'.* splits: train, test"),
    ],
)
def test_wrong_names_are_answered_with_what_there_is(tmp_path: Path, config: dict[str, str], words: str) -> None:
    shard(tmp_path / "pets", "train", [0, 1])
    shard(tmp_path / "pets", "test", [0, 1])
    with pytest.raises(DataError, match=words):
        opened(tmp_path / "pets", **config)


@pytest.mark.parametrize(
    ("kind", "labels", "words"),
    [
        ("int64", [0, -1], "'label' of test holds -1, which marks a row without a label"),
        ("int64", [0, None], "1 of 2 rows of test have no label in column 'label'"),
        ("float32", [0.0, 1.0], "Column 'label' holds float32; expected class labels, integers or strings"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path: Path, kind: str, labels: list[Any], words: str) -> None:
    shard(tmp_path / "pets", "train", [0, 1], datasets.Value(kind))
    shard(tmp_path / "pets", "test", labels, datasets.Value(kind))
    with pytest.raises(DataError, match=words):
        opened(tmp_path / "pets")


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist; expected a folder"):
        opened(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds neither tables .* nor images. Expected Parquet files"):
        opened(tmp_path / "empty")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file is a file; expected the folder"):
        opened(tmp_path / "file")
    with pytest.raises(ParamsError, match=r"data.path is null"):
        huggingface.open_source(Config(), Data())


def test_a_torn_shard_is_refused(tmp_path: Path, scratch: Path) -> None:
    shard(tmp_path / "pets", "train", [0, 1])
    whole = (tmp_path / "pets" / "train-00000-of-00001.parquet").read_bytes()
    garbled = whole[:4] + bytes(byte ^ 0x5A for byte in whole[4:-200]) + whole[-200:]
    for content in (whole[:-9], garbled, b""):
        (tmp_path / "pets" / "test-00000-of-00001.parquet").write_bytes(content)
        with pytest.raises(
            DataError, match=r"^1 Parquet files of .*pets cannot be read: test-00000-of-00001\.parquet \("
        ):
            opened(tmp_path / "pets")
        assert not os.listdir(scratch)


def test_one_of_several_subsets_is_chosen_by_name(tmp_path: Path) -> None:
    shard(tmp_path, "train", [1, 0, 1])
    shard(tmp_path, "test", [0, 1])
    small, large = (
        f"{{split: train, path: {train}-*}}, {{split: test, path: ./{test}-*.parquet}}"
        for train, test in (("test", "train"), ("train", "test"))
    )
    listed = f"- {{config_name: large, data_files: [{large}]}}\n- {{config_name: small, data_files: [{small}]}}\n"
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{listed}---\n")
    assert len(opened(tmp_path, subset="large").splits["train"]) == 3
    assert len(opened(tmp_path, subset="small").splits["train"]) == 2
    words = r"has these subsets: large, small\. Choose one with data\.sources\.huggingface\.subset\."
    with pytest.raises(DataError, match=words):
        opened(tmp_path)
    with pytest.raises(
        DataError, match=r"subset is 'lrage' \(did you mean 'large'\?\); .*README.md names these: large, small"
    ):
        opened(tmp_path, subset="lrage")


def test_training_on_the_test_split_is_refused() -> None:
    with pytest.raises(ValueError, match="must differ"):
        Config(train_split="test")


def test_a_hub_that_cannot_be_reached_says_what_to_do(tmp_path: Path) -> None:
    script = (
        "from pipeline.preparation import prepare; from pipeline.settings.data import Data; from pathlib import Path\n"
        "try: prepare.prepare(Data(source='huggingface', path='nobody/nothing'), Path('never'))\n"
        "except prepare.DataError as error: print(error)"
    )
    # What the library itself offers for machines without a network; its home is empty, so no cache can answer.
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=offline, capture_output=True, text=True)
    assert "There is no folder nobody/nothing, and as a data set id it could not be fetched" in done.stdout, done.stderr
    assert "set data.path to its folder" in done.stdout
