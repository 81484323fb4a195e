"""A teacher from elsewhere through the stages: its last layer trained anew, its labels' order, its file imported."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from pipeline.models import checkpoint
from pipeline.models.base import Classifier, num_parameters
from pipeline.settings.data import Normalization
from pipeline.sweep.plan import Run
from pipeline.system.errors import CheckpointError, ParamsError, StoppedError
from stages import _run, _table_task
from stages.distill import distill
from stages.import_weights import import_weights
from stages.preflight import preflight
from stages.train_teacher import train_teacher
from tests import stopped, tiny, toy

ARCH = "timm/test_resnet"
TIMM = Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
ORDER = [1, 2, 3, 0]
TRAIN = {"epochs": 8, "batch_size": 16, "lr": 0.5, "milestones": [], "precision": "fp32"}


def weights(folder: Path, model: Classifier) -> Path:
    """By timm's names, as its folders on the Hub have them."""
    save_file(dict(model.net.state_dict()), folder / "weights.safetensors")
    return folder / "weights.safetensors"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose class is their brightness, which the last layer can tell whatever is below it."""
    folder = tmp_path_factory.mktemp("data")
    for number, name in enumerate(("train", "val", "test")):
        split = tiny.split(tiny.card().counts[name], seed=number)
        (folder / name).mkdir()
        bright = 60 * split.labels[:, None, None, None].astype(np.uint8)
        np.save(folder / name / "images.npy", split.images // 8 + bright)
        np.save(folder / name / "labels.npy", split.labels)
    (folder / "card.json").write_text(tiny.card().model_dump_json())
    return folder


def settings(folder: Path, **teacher: Any) -> Path:
    shutil.copy(toy.ROOT / "params.yaml", folder)
    changes = {"teacher.arch": ARCH, "teacher.train": TRAIN, "distill.methods": {"afd": {}}, "augment.flip": False}
    toy.edit(folder, changes | {f"teacher.{key}": value for key, value in teacher.items()})
    return folder / "params.yaml"


@pytest.fixture(scope="module")
def body() -> Classifier:
    """A network for 1,000 classes that are not those of the data."""
    model = tiny.network(ARCH, classes=1000, seed=3)
    model.train()(torch.randn(16, 3, 64, 64))
    return model.eval()


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory, prepared: Path, body: Classifier) -> Path:
    folder = tmp_path_factory.mktemp("retrained")
    params = settings(folder, weights=str(weights(folder, body)), head="retrain")
    train_teacher(params, prepared, folder / "teacher", folder / "resume")
    return folder / "teacher"


def test_only_the_last_layer_of_weights_with_other_classes_is_trained(retrained: Path, body: Classifier) -> None:
    model, header = checkpoint.load(retrained / "model.safetensors")
    assert (header.labels, header.normalization) == (tiny.card().labels, TIMM)
    images = tiny.batch().images
    assert torch.equal(model.features(images).pooled, body.features(images).pooled)
    assert model.fc.out_features == tiny.CLASSES
    history = json.loads((retrained / "history.json").read_text())
    assert len(history["epochs"]) == TRAIN["epochs"]
    assert history["last"]["val_top1"] > 60
    assert (retrained / "metrics.json").is_file()


def test_a_student_learns_from_it_by_its_logits(retrained: Path, prepared: Path, tmp_path: Path) -> None:
    params = settings(tmp_path)
    once = TRAIN | {"epochs": 1, "lr": 0.01}
    toy.edit(tmp_path, {"distill.train": once, "distill.methods": {"kd": {"kl_weight": 0.9}}})
    distill(params, "kd", 0, retrained / "model.safetensors", prepared, tmp_path / "out", tmp_path / "resume")
    assert checkpoint.load(tmp_path / "out/model.safetensors")[0].fc.out_features == tiny.CLASSES


def test_the_same_settings_and_weights_give_the_same_teacher(
    retrained: Path, prepared: Path, body: Classifier, tmp_path: Path
) -> None:
    """Wherever the weights lie: their bytes count, not their path."""
    params = settings(tmp_path, weights=str(weights(tmp_path, body)), head="retrain")
    train_teacher(params, prepared, tmp_path / "teacher", tmp_path / "resume")
    again, first = (folder / "model.safetensors" for folder in (tmp_path / "teacher", retrained))
    assert again.read_bytes() == first.read_bytes()


def test_a_teacher_comes_from_pretrained_weights_of_timm(
    prepared: Path,
    body: Classifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub = tmp_path / "hub"
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    repository = hub / "models--timm--test_resnet.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    weights(snapshot, body).rename(snapshot / "model.safetensors")
    params = settings(tmp_path, pretrained=True, head="retrain")
    train_teacher(params, prepared, tmp_path / "teacher", tmp_path / "resume")
    model, header = checkpoint.load(tmp_path / "teacher/model.safetensors")
    assert header.normalization == TIMM
    images = tiny.batch().images
    assert torch.equal(model.features(images).pooled, body.features(images).pooled)
    assert (
        "normalisation: mean (0.5, 0.5, 0.5), std (0.5, 0.5, 0.5), from the configuration of" in capsys.readouterr().err
    )


def reordered(model: Classifier) -> Classifier:
    """The same network with its classes in another order."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.fc.weight.copy_(model.fc.weight[ORDER])
        other.fc.bias.copy_(model.fc.bias[ORDER])
    return other


def test_a_finished_teacher_is_taken_and_what_was_matched_is_said(
    retrained: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = checkpoint.load(retrained / "model.safetensors")
    params = settings(tmp_path, weights=str(weights(tmp_path, model)))
    train_teacher(params, prepared, tmp_path / "teacher", tmp_path / "resume")
    said = capsys.readouterr()
    assert said.err.splitlines()[:4] == [
        "renamed: 'net.' is put before",
        "missing: nothing",
        "left over: nothing",
        "normalisation: mean (0.5, 0.5, 0.5), std (0.5, 0.5, 0.5), from the configuration of timm/test_resnet",
    ]
    assert "warning" not in said.err
    top1 = json.loads((retrained / "history.json").read_text())["last"]["val_top1"]
    assert f"validation top-1 {top1:.2f} %" in said.out


def test_labels_in_another_order_are_found_on_the_validation_split(
    retrained: Path, prepared: Path, tmp_path: Path
) -> None:
    model, _ = checkpoint.load(retrained / "model.safetensors")
    params = settings(tmp_path, weights=str(weights(tmp_path, reordered(model))))
    with pytest.raises(
        CheckpointError, match=r"chance is 25\.0 %; with its classes in another order it is .*'class 1'"
    ):
        train_teacher(params, prepared, tmp_path / "teacher", tmp_path / "resume")
    assert not (tmp_path / "teacher").exists()


def test_a_teacher_that_knows_nothing_is_taken_with_a_warning(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.network(ARCH)
    torch.nn.init.zeros_(model.fc.weight)
    path = weights(tmp_path, model)
    train_teacher(settings(tmp_path, weights=str(path)), prepared, tmp_path / "teacher", tmp_path / "resume")
    assert (tmp_path / "teacher/model.safetensors").is_file()
    said = capsys.readouterr().err
    assert "warning: on average the teacher is right on 25.0 % of a class in the validation split" in said
    assert "and chance is 25.0 %. Check that its classes" in said


def test_preflight_sees_another_content_of_a_folder_that_is_named_alike_and_what_does_not_fit(
    tmp_path: Path, body: Classifier
) -> None:
    params = settings(tmp_path, weights=str(tmp_path / "hub"), head="retrain")
    (tmp_path / "hub").mkdir()
    path, seen = weights(tmp_path / "hub", body), []
    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: (tmp_path / "hub/README.md").write_text("# Words"),
        lambda: (tmp_path / "hub/config.json").write_text('{"mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2]}'),
        lambda: weights(tmp_path / "hub", tiny.network(ARCH, classes=1000, seed=4)),
    ]
    for change in changes:
        change()
        preflight(params, tmp_path / "artifacts/preflight")
        seen.append(json.loads((tmp_path / "artifacts/preflight/weights.json").read_text())["sha256"])
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3
    save_file({"x": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="does not hold a"):
        preflight(params, tmp_path / "artifacts/preflight")


def test_a_folder_goes_along_to_the_node_of_a_table_that_takes_it(
    tmp_path: Path, body: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "hub"
    hub.mkdir()
    weights(hub, body)
    (hub / "config.json").write_text("{}")
    seen: dict[str, list[str]] = {}

    def take(params: dict[str, Any], data: Path, out: Path) -> None:
        named = Path(params["teacher"]["weights"])
        assert named != hub
        seen[named.name] = sorted(path.name for path in named.iterdir())
        out.mkdir()
        (out / "model").write_text("taken")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(_table_task._table_run, "train_teacher", take)
    values = {"teacher": {"weights": str(hub)}}
    places = {name: tmp_path / name for name in ("data", "teacher_data", "teacher", "out")}
    run = Run("pair", "kd", 0, values, values, **places, key="k")
    assert _table_task.teacher(run, {}, _table_task.weights_of(run)).keys() == {"model"}
    assert seen == {"weights": ["config.json", "weights.safetensors"]}


def test_a_file_is_imported_by_a_command(
    tmp_path: Path, body: Classifier, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": torch.nn.DataParallel(body.net).state_dict(), "epoch": 3}, tmp_path / "model.pth.tar")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["", "model.pth.tar", "--arch", ARCH, "--out", "teacher.safetensors"])
    _run.main(import_weights)
    assert capsys.readouterr().out.splitlines() == [
        "renamed: 'state_dict.module.' is taken off, 'net.' is put before",
        "missing: nothing",
        "left over: nothing",
        "normalisation: mean (0.5, 0.5, 0.5), std (0.5, 0.5, 0.5), from the configuration of timm/test_resnet",
        f"teacher.safetensors: timm/test_resnet, 1000 classes, {num_parameters(body):,} parameters",
    ]
    monkeypatch.setattr("sys.argv", ["", "model.pth.tar", "--arch", "resnet8", "--out", "other"])
    with pytest.raises(SystemExit) as ended:
        _run.main(import_weights)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: model.pth.tar does not hold a resnet8: it lacks ")
    assert not (tmp_path / "other").exists()


def test_a_file_of_a_run_here_needs_no_import(retrained: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"was written by Pupil: teacher\.weights takes it as it is"):
        import_weights(retrained / "model.safetensors", ARCH, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_batches_that_the_students_cannot_have_are_said_before_a_teacher_trains(prepared: Path, tmp_path: Path) -> None:
    train = TRAIN | {"batch_size": 1000, "drop_last": True}
    params = settings(tmp_path, arch="resnet8")
    toy.edit(tmp_path, {"distill.train": train})
    with pytest.raises(
        ParamsError, match=r"^params\.yaml: distill\.train: an epoch of \d+ images has no batch of 1000"
    ):
        train_teacher(params, prepared, tmp_path / "teacher", tmp_path / "resume")


def test_a_state_of_images_that_were_normalised_otherwise_is_not_gone_on_with(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params = settings(tmp_path, arch="resnet8", train=TRAIN | {"epochs": 1, "lr": 0.01})
    stopped.at_step(2, monkeypatch)
    with pytest.raises(StoppedError):
        train_teacher(params, prepared, tmp_path / "teacher", tmp_path / "resume")
    other = shutil.copytree(prepared, tmp_path / "other")
    (other / "card.json").write_text(tiny.card().model_copy(update={"normalization": TIMM}).model_dump_json())
    train_teacher(params, other, tmp_path / "other-teacher", tmp_path / "resume")
    assert "belongs to a run with other parameters, data" in capsys.readouterr().err
    train_teacher(params, prepared, tmp_path / "teacher", tmp_path / "resume")
    assert "resuming after epoch 0 and 2 steps of the next" in capsys.readouterr().err
