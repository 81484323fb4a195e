"""CIFAR as its author packed it: a few made-up images in that layout, read by torchvision itself, sums checked."""

import hashlib
import os
import pickle
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torchvision import datasets

from pipeline.preparation import prepare
from pipeline.preparation.source import Source
from pipeline.settings.data import Data
from pipeline.sources import cifar
from pipeline.sources.cifar import Config
from pipeline.system.errors import DataError, ParamsError

NAMES = {10: ["airplane", "automobile"], 100: ["apple", "aquarium_fish"]}


def pixels(images: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)


def store(path: Path, content: dict[str, Any]) -> str:
    """Write a file of the data set; its MD5 sum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.fixture(params=[10, 100])
def classes(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """10 or 100: that data set lies in `tmp_path`, with a few images, and torchvision knows the sums of these files."""
    number: int = request.param
    kind: Any = datasets.CIFAR10 if number == 10 else datasets.CIFAR100
    labels, home = "labels" if number == 10 else "fine_labels", tmp_path / kind.base_folder
    for list_name in ("train_list", "test_list"):
        listed = []
        for seed, (name, _) in enumerate(getattr(kind, list_name)):
            flat = pixels(4, seed).transpose(0, 3, 1, 2).reshape(4, -1)
            content = {"data": flat, labels: [0, 1, 1, 0], "coarse_labels": [7, 8, 8, 7]}
            listed.append([name, store(home / name, content)])
        monkeypatch.setattr(kind, list_name, listed)
    meta = kind.meta | {"md5": store(home / kind.meta["filename"], {kind.meta["key"]: NAMES[number]})}
    monkeypatch.setattr(kind, "meta", meta)
    return number


def opened(path: Path, classes: int = 100, download: bool = False) -> Source:
    return cifar.open_source(Config(classes=classes, download=download), Data(source="cifar", path=str(path)))


def test_images_and_names_are_those_of_the_files(classes: int, tmp_path: Path) -> None:
    source = opened(tmp_path, classes)
    assert source.labels == tuple(NAMES[classes])
    train, test = source.splits["train"], source.splits["test"]
    assert len(train) == (20 if classes == 10 else 4)
    assert test.labels.tolist() == [0, 1, 1, 0]
    np.testing.assert_array_equal(test.read(2), pixels(4, 0)[2])
    np.testing.assert_array_equal(train.read(len(train) - 1), pixels(4, len(train) // 4 - 1)[3])
    assert (train.name(3), train.path(3)) == ("train image 3", None)


@pytest.mark.parametrize("classes", [100], indirect=True)
def test_prepare_reads_it(classes: int, tmp_path: Path) -> None:
    data = Data(source="cifar", path=str(tmp_path), sources={"cifar": {"classes": classes}})
    card = prepare.prepare(data, tmp_path / "out", progress=False)
    assert (card.counts, card.labels) == ({"train": 2, "val": 2, "test": 4}, tuple(NAMES[classes]))


@pytest.mark.parametrize("classes", [100], indirect=True)
def test_a_file_that_is_not_the_original_is_never_unpickled(classes: int, tmp_path: Path) -> None:
    path = tmp_path / "cifar-100-python/test"
    store(path, {"data": Trap(str(tmp_path / "sprung"))})
    with pytest.raises(
        DataError, match=r"cifar-100-python/test is not the original: its MD5 sum is not [0-9a-f]{32}\."
    ):
        opened(tmp_path)
    assert not (tmp_path / "sprung").exists()
    path.unlink()
    with pytest.raises(
        DataError, match=r"python/test is missing\. Unpack https://\S+gz in data\.path .*\.download: true"
    ):
        opened(tmp_path)


@pytest.mark.parametrize("classes", [100], indirect=True)
def test_an_archive_that_was_fetched_before_is_unpacked_without_a_network(
    classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fetched/cifar-100-python.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        archive.add(tmp_path / "cifar-100-python", "cifar-100-python")
    monkeypatch.setattr(datasets.CIFAR100, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setattr(datasets.CIFAR100, "url", "http://127.0.0.1:9/none")
    assert opened(path.parent, classes, download=True).splits["test"].labels.tolist() == [0, 1, 1, 0]


def test_what_cannot_be_fetched_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: whoever connects is refused
        monkeypatch.setattr(datasets.CIFAR100, "url", f"http://127.0.0.1:{taken.getsockname()[1]}/x.tar.gz")
        with pytest.raises(
            DataError, match=r"new and could not be fetched from http://127\S+: .*refused.* put cifar-100-python.tar.gz"
        ):
            opened(tmp_path / "new", download=True)


def test_the_fingerprint_hangs_on_what_the_author_packed_alone(classes: int, tmp_path: Path) -> None:
    data, config = Data(source="cifar", path=str(tmp_path)), Config.model_validate({"classes": classes})
    seen = cifar.fingerprint(config, data)
    (tmp_path / "notes.txt").touch()
    for file in tmp_path.rglob("*"):
        os.utime(file, (1, 1))
    assert cifar.fingerprint(config, data) == seen
    with pytest.raises(DataError, match="is missing"):
        cifar.fingerprint(config, Data(source="cifar", path=str(tmp_path / "..")))


def test_a_path_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"none does not exist .*cifar-100-python, or with data\.sources\.cifar\.downlo"
    ):
        opened(tmp_path / "none")
    with pytest.raises(ParamsError, match=r"data\.path is null"):
        cifar.open_source(Config(download=True), Data(source="cifar"))
