"""Weights files: round trips, same bytes, and every way a file can be the wrong one."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipeline.models import checkpoint
from pipeline.system.errors import CheckpointError, PupilError
from tests import tiny


def header(arch: str = "resnet8") -> checkpoint.Header:
    card = tiny.card()
    return checkpoint.Header(
        model={"arch": arch, "num_classes": tiny.CLASSES},
        labels=card.labels,
        image_px=card.image_px,
        storage_px=card.image_px + 4,
        normalization=card.normalization,
        method="kd",
        seed=0,
        params_sha256="a",
        data_sha256="b",
        licence=None,
    )


@pytest.mark.parametrize("arch", ["resnet8", "wrn_16_1"])
def test_a_saved_network_comes_back_with_its_header(arch: str, tmp_path: Path) -> None:
    model = tiny.network(arch).to(memory_format=torch.channels_last).eval()
    checkpoint.save(model, header(arch), tmp_path / "m.safetensors")
    loaded, said = checkpoint.load(tmp_path / "m.safetensors")
    images = tiny.batch().images
    assert said == header(arch)
    assert not loaded.training
    torch.testing.assert_close(loaded(images), model(images))


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        checkpoint.save(tiny.network(), header(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_model_can_be_read_by_whoever_can_read_other_new_files(tmp_path: Path) -> None:
    checkpoint.save(tiny.network(), header(), tmp_path / "m.safetensors")
    (tmp_path / "other").touch()
    assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_torn_file_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    checkpoint.save(tiny.network(), header(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        checkpoint.load(path)


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (open, (str(tmp_path / "boom"), "w"))  # type: ignore[return-value]

    (tmp_path / "m.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        checkpoint.load(tmp_path / "m.pt")
    assert not (tmp_path / "boom").exists()


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = tiny.network()
    with torch.no_grad():
        model.fc.weight[0, 0] = float("nan")
    checkpoint.save(model, header(), tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=r"not finite, such as fc\.weight"):
        checkpoint.load(tmp_path / "m.safetensors")


def test_statistics_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = tiny.network()
    model.get_buffer("bn1.running_var")[0] = float("nan")
    checkpoint.save(model, header(), tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=r"not finite, such as bn1\.running_var\. Take another file, or train"):
        checkpoint.load(tmp_path / "m.safetensors")


def test_a_file_that_does_not_fill_its_own_network_is_damaged(tmp_path: Path) -> None:
    checkpoint.save(tiny.network(), header("resnet14"), tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=r"a resnet14 with 4 classes: it lacks .* is damaged: train it again"):
        checkpoint.load(tmp_path / "m.safetensors")


def written(**model: Any) -> str:
    """A header with another spec of its network, as JSON."""
    return json.dumps(header().model_dump(mode="json") | {"model": model})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", r"the header of .* is not a JSON object \(Expecting property name.*Copy or download it again"),
        ("[1]", r"is not a JSON object \(it is a list\)"),
        ("[" * 100_000, "is not a JSON object"),
        ("{}", r"is damaged or of another version \(model: Field required; .*Copy it again, or train the network"),
        (written(), r"model: expected a spec with arch, the name of a network, but it is \{\}"),
        (written(arch=8, num_classes=4), "expected a spec with arch"),
        (written(arch="resnet8"), "num_classes of resnet8 is None, not a whole number from 1 on"),
        (written(arch="resnet8", num_classes=0), "num_classes of resnet8 is 0, not"),
        (written(arch="resnet8", num_classes="4"), "num_classes of resnet8 is '4', not"),
        (written(arch="resnet8", num_classes=5), "num_classes of resnet8 is 5, but there are 4 labels"),
        (written(arch="pruned", num_classes=4, body=[1]), r"expected a spec with arch.* but it is 1"),
    ],
    ids=lambda text: text[:12],
)
def test_a_header_that_is_damaged_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file(tiny.network().state_dict(), path, metadata={"pupil": text})
    with pytest.raises(CheckpointError, match=said) as caught:
        checkpoint.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_file_without_header_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is missing"):
        checkpoint.load(tmp_path / "none")
    save_file({"x": torch.zeros(1)}, tmp_path / "plain")
    with pytest.raises(CheckpointError, match=r"teacher\.weights"):
        checkpoint.load(tmp_path / "plain")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PupilError, match="could not be written"):
        checkpoint.save(tiny.network(), header(), tmp_path / "file" / "m.safetensors")
