"""Stages evaluate and compare: the figures of training to the bit, and nothing said of what is missing or broken."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from pipeline.data.arrays import write_labels
from pipeline.models import checkpoint
from pipeline.system.errors import CheckpointError, DataError, StoppedError
from pipeline.system.files import write_json
from stages.compare import compare
from stages.distill import distill
from stages.evaluate import evaluate
from stages.train_teacher import train_teacher
from tests import stopped, tiny

COUNTS = {"train": 64, "val": 257, "test": 32}
"""The last image of the validation is a batch by itself, which is computed in other bits than a larger one."""
TRAIN = {"epochs": 2, "batch_size": 24, "lr": 0.02, "milestones": [1], "precision": "fp32"}
METHODS: dict[str, Any] = {"vanilla": {}, "kd": {"kl_weight": 0.9}, "afd": {}, "norm": {}, "simkd": {}}


class Project:
    """A folder with a prepared data set and what stages make of it, each called in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.params = folder, folder / "data", folder / "params.yaml"
        self.teacher = folder / "teacher"

    def settings(self, weights: Path | None = None, methods: Sequence[str] = tuple(METHODS), **train: Any) -> None:
        """Write params.yaml: what the teacher is, the methods, and the students' recipe."""
        sections = {
            "augment": {"crop_padding_px": 2, "flip": False},
            "teacher": {"arch": "resnet14", "train": TRAIN, "weights": weights and str(weights)},
            "student": {"arch": "resnet8"},
            "distill": {"train": TRAIN | train, "methods": {name: METHODS[name] for name in methods}},
        }
        YAML(typ="safe", pure=True).dump(sections, self.params)

    def teach(self) -> None:
        train_teacher(self.params, self.data, self.teacher, self.folder / "teacher.resume")
        evaluate(self.params, self.teacher / "model.safetensors", self.data, self.teacher)

    def distill(self, method: str) -> Path:
        out = self.folder / "students" / method / "0"
        weights = self.teacher / "model.safetensors"
        distill(self.params, method, 0, weights, self.data, out, self.folder / f"{method}.resume")
        return out

    def evaluate(self, out: Path) -> None:
        evaluate(self.params, out / "model.safetensors", self.data, out, self.teacher / "logits.npy")

    def compare(self) -> None:
        students, logits = self.folder / "students", self.teacher / "logits.npy"
        compare(self.params, students, logits, self.data, self.folder / "comparison.json")


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a trained and evaluated teacher."""
    project = Project(tmp_path_factory.mktemp("evaluate"))
    for seed, (name, count) in enumerate(COUNTS.items()):
        split = tiny.split(count, seed=seed)
        (project.data / name).mkdir(parents=True)
        np.save(project.data / name / "images.npy", split.images)
        write_labels(project.data / name / "labels.npy", split.labels)
    write_json(project.data / "card.json", tiny.card().model_copy(update={"counts": COUNTS}).model_dump(mode="json"))
    project.settings()
    project.teach()
    return project


@pytest.fixture
def project(taught: Project, tmp_path: Path) -> Project:
    """A copy, to be changed."""
    return Project(shutil.copytree(taught.folder, tmp_path / "project"))


def test_a_teachers_last_validation_is_what_evaluate_says(taught: Project) -> None:
    assert read(taught.teacher, "evaluation.json")["val"] == read(taught.teacher, "history.json")["epochs"][-1]["val"]


def test_the_validation_of_weights_that_were_taken_is_what_evaluate_says(project: Project) -> None:
    weights = shutil.copy2(project.teacher / "model.safetensors", project.folder / "weights.safetensors")
    project.settings(weights)
    before = read(project.teacher, "evaluation.json")
    project.teach()
    history, after = (read(project.teacher, f"{name}.json") for name in ("history", "evaluation"))
    assert (history["epochs"], history["taken"]) == ([], {"val_top1": after["val"]["top1"]})
    assert (after["val"], after["test"]) == (before["val"], before["test"])


@pytest.mark.parametrize(
    ("method", "recipe", "is_stopped"),
    [
        ("vanilla", {}, False),
        ("kd", {"ema_decay": 0.7}, False),
        ("afd", {"select": "best", "epochs": 3, "milestones": [], "lr": 0.2}, False),
        ("norm", {"precision": "auto"}, False),
        ("simkd", {"precision": "auto", "ema_decay": 0.7, "select": "best"}, False),
        ("norm", {"ema_decay": 0.7, "mixup_alpha": 0.4}, True),
    ],
)
def test_the_validation_of_the_epoch_that_ships_is_what_evaluate_says(
    method: str, recipe: dict[str, Any], is_stopped: bool, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.settings(**recipe)
    if is_stopped:
        stopped.at_step(4, monkeypatch)
        with pytest.raises(StoppedError, match="in epoch 2, after step 1"):
            project.distill(method)
    out = project.distill(method)
    project.evaluate(out)
    history, evaluation = read(out, "history.json"), read(out, "evaluation.json")
    assert list(evaluation["val"]) == ["top1", "top5", "nll", "ece"]
    assert evaluation["val"] == history["epochs"][history["shipped_epoch"] - 1]["val"]


def test_validation_of_images_seen_in_training_is_labelled(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    out = project.distill("vanilla")
    project.evaluate(out)
    assert "val (" not in capsys.readouterr().err
    assert not read(out, "history.json")["val_seen_in_training"]
    card = read(project.data, "card.json") | {"train_includes_val": True}
    write_json(project.data / "card.json", card)
    out = project.distill("vanilla")
    project.evaluate(out)
    assert len(re.findall(r"train \d+\.\d\d val \(images seen in training\) \d", capsys.readouterr().err)) == 2
    assert read(out, "history.json")["val_seen_in_training"]
    assert read(out, "evaluation.json")["val_seen_in_training"]
    assert read(out, "metrics.json")["val"]["images"] == "seen in training"


@pytest.fixture(scope="module")
def evaluated(taught: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy with two evaluated students and their comparison. Not to be changed."""
    project = Project(shutil.copytree(taught.folder, tmp_path_factory.mktemp("evaluated") / "project"))
    project.settings(methods=("vanilla", "kd"))
    for method in ("vanilla", "kd"):
        project.evaluate(project.distill(method))
    project.compare()
    return project


def test_all_that_is_said_of_a_student_fits_together(evaluated: Project) -> None:
    student = evaluated.folder / "students/kd/0"
    evaluation, analysis = (read(student, f"{name}.json") for name in ("evaluation", "analysis"))
    low, high = evaluation["top1_interval"]
    assert 0 <= low <= evaluation["test"]["top1"] <= high <= 100
    logits, teacher = np.load(student / "logits.npy"), np.load(evaluated.teacher / "logits.npy")
    assert (logits.shape, logits.dtype) == ((COUNTS["test"], tiny.CLASSES), np.float32)
    labels = np.load(evaluated.data / "test/labels.npy")
    right = int((logits.argmax(1) == labels).sum())
    assert evaluation["test"]["top1"] == 100 * right / COUNTS["test"]
    assert evaluation["test"]["top1_agreement"] == 100 * (logits.argmax(1) == teacher.argmax(1)).mean()
    assert sum(row[k] for k, row in enumerate(analysis["confusion"])) == right
    assert analysis["against_teacher"]["both"] + analysis["against_teacher"]["only_student"] == right
    assert read(evaluated.teacher, "analysis.json")["against_teacher"] is None
    assert len((student / "confusion.csv").read_text(encoding="utf-8").splitlines()) == COUNTS["test"] + 1

    comparison = read(evaluated.folder, "comparison.json")
    places = [(pair["method"], pair["against"], pair["seed"]) for pair in comparison["pairs"]]
    assert sorted(places) == [("kd", "teacher", 0), ("kd", "vanilla", 0), ("vanilla", "teacher", 0)]
    against = comparison["pairs"][places.index(("kd", "teacher", 0))]
    assert (against["only_this"], against["only_other"]) == tuple(
        analysis["against_teacher"][key] for key in ("only_student", "only_teacher")
    )


def test_the_same_student_is_described_by_the_same_bytes(evaluated: Project, tmp_path: Path) -> None:
    student, again = evaluated.folder / "students/kd/0", tmp_path / "again"
    shutil.copytree(student, again, ignore=shutil.ignore_patterns("*.json", "*.npy", "*.csv"))
    evaluated.evaluate(again)
    for name in ("evaluation.json", "analysis.json", "logits.npy", "confusion.csv", "classes.csv", "reliability.csv"):
        assert (again / name).read_bytes() == (student / name).read_bytes(), name


def test_a_student_that_is_not_there_or_torn_is_no_result(evaluated: Project, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        evaluated.evaluate(tmp_path)
    whole = (evaluated.folder / "students/kd/0/model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="is not a complete safetensors file"):
        evaluated.evaluate(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_student_that_answers_with_no_numbers_is_no_result(evaluated: Project, tmp_path: Path) -> None:
    model, header = checkpoint.load(evaluated.folder / "students/kd/0/model.safetensors")
    torch.nn.init.constant_(model.fc.weight, 3e38)
    checkpoint.save(model, header, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"not finite for 32 of 32 test images: its training failed\. Lower"):
        evaluated.evaluate(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_student_of_other_classes_is_refused(evaluated: Project, tmp_path: Path) -> None:
    model, header = checkpoint.load(evaluated.folder / "students/kd/0/model.safetensors")
    other = header.model_copy(update={"labels": header.labels[::-1]})
    checkpoint.save(model, other, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="knows the classes class 3, class 2"):
        evaluated.evaluate(tmp_path)


def test_teacher_logits_that_are_missing_torn_or_of_another_split_are_refused(project: Project) -> None:
    logits = project.teacher / "logits.npy"
    whole, student = logits.read_bytes(), project.teacher
    remake = "Stage evaluate_teacher writes it: run `dvc repro --force evaluate_teacher`"
    for content, said in (
        (whole[:-4], "is missing or is not a complete .npy file"),
        (np.zeros((31, 4), np.float32), r"expected float32 \(32, 4\), .*, but got float32 \(31, 4\)"),
        (np.zeros((32, 5), np.float32), r"but got float32 \(32, 5\)"),
        (np.zeros((32, 4)), r"but got float64 \(32, 4\)"),
        (None, "is missing or is not a complete .npy file: .*No such file"),
    ):
        if isinstance(content, bytes):
            logits.write_bytes(content)
        elif content is not None:
            np.save(logits, content)
        else:
            logits.unlink()
        with pytest.raises(DataError, match=f"{said}.*{remake}"):
            project.evaluate(student)


def test_a_comparison_lacks_no_run_that_is_listed(evaluated: Project, tmp_path: Path) -> None:
    project = Project(shutil.copytree(evaluated.folder, tmp_path / "project"))
    before = (project.folder / "comparison.json").read_bytes()
    shutil.rmtree(project.folder / "students/vanilla")
    with pytest.raises(DataError, match=r"0/logits\.npy is missing .*run `dvc repro --force evaluate@vanilla-0`"):
        project.compare()
    assert (project.folder / "comparison.json").read_bytes() == before
