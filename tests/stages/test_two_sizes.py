"""A student that sees smaller images than its teacher, from training to a served answer: it is always the same view."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from pipeline.data import augment
from pipeline.data import card as cards
from pipeline.data.arrays import Split, write_labels
from pipeline.data.feed import Feed
from pipeline.models import checkpoint
from pipeline.models.base import count_macs
from pipeline.system.errors import DataError
from pipeline.system.files import write_json
from serve.model.classifier import OnnxClassifier
from serve.model.decode import decode
from stages.cut_student import cut_student
from stages.distill import distill
from stages.energy_maps import energy_maps
from stages.evaluate import evaluate
from stages.export import export
from stages.quantize import quantize
from stages.train_teacher import train_teacher
from tests import tiny

pytestmark = pytest.mark.slow

STORED_PX, TEACHER_PX, STUDENT_PX = 20, 16, 8
TRAIN = {"epochs": 1, "batch_size": 16, "lr": 0.02, "milestones": [1], "precision": "fp32"}


class Project:
    """A folder with prepared images and a teacher, and the stages that come after it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.params = folder, folder / "data", folder / "params.yaml"
        self.teacher, self.deploy = folder / "teacher", folder / "deploy"

    def settings(self, arch: str = "resnet8", **student: Any) -> None:
        sections = {
            "data": {"image_px": TEACHER_PX, "storage_px": STORED_PX},
            "augment": {"crop": "resized", "flip": True},
            "teacher": {"arch": "resnet14", "train": TRAIN},
            "student": {"arch": arch, "image_px": STUDENT_PX, **student},
            "distill": {"train": TRAIN, "methods": {"kd": {"kl_weight": 0.9}, "afd": {}}},
            "deploy": {"method": "kd", "max_drop": 100},
            "quantize": {"images": 32},
        }
        YAML(typ="safe", pure=True).dump(sections, self.params)

    def student(self, method: str, start: Path | None = None) -> Path:
        out, resume = self.folder / "students" / method / "0", self.folder / "student.resume"
        distill(self.params, method, 0, self.teacher / "model.safetensors", self.data, out, resume, start=start)
        evaluate(self.params, out / "model.safetensors", self.data, out, self.teacher / "logits.npy")
        return out


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """With a kd student of half the teacher's size, which is exported and quantised."""
    project = Project(tmp_path_factory.mktemp("sizes"))
    card = tiny.card(image_px=TEACHER_PX).model_copy(update={"storage_px": STORED_PX})
    for seed, (name, count) in enumerate(card.counts.items()):
        split = tiny.split(count, image_px=STORED_PX, seed=seed)
        (project.data / name).mkdir(parents=True)
        np.save(project.data / name / "images.npy", split.images)
        write_labels(project.data / name / "labels.npy", split.labels)
    write_json(project.data / "card.json", card.model_dump(mode="json"))
    project.settings()
    train_teacher(project.params, project.data, project.teacher, project.folder / "teacher.resume")
    evaluate(project.params, project.teacher / "model.safetensors", project.data, project.teacher)
    student, deploy = project.student("kd"), project.deploy
    scored = [
        folder / name for folder in (student, project.teacher) for name in ("model.safetensors", "evaluation.json")
    ]
    export(project.params, *scored, project.data, deploy)
    files = deploy / "student.onnx", project.teacher / "logits.npy", project.data, deploy / "smaller"
    quantize(project.params, *files, deploy / "quantization.json")
    return project


def test_what_is_validated_in_training_is_what_evaluate_says(project: Project) -> None:
    student = project.folder / "students/kd/0"
    assert read(student / "evaluation.json")["val"] == read(student / "history.json")["epochs"][-1]["val"]
    model, header = checkpoint.load(student / "model.safetensors")
    assert (header.image_px, header.cut_px, header.storage_px) == (STUDENT_PX, TEACHER_PX, STORED_PX)
    assert read(student / "evaluation.json")["macs"] == count_macs(model, STUDENT_PX)
    assert checkpoint.load(project.teacher / "model.safetensors")[1].cut_px is None


@pytest.mark.parametrize("file", ["student.onnx", "smaller/student.int8.onnx"])
def test_the_server_answers_what_was_evaluated(project: Project, file: str) -> None:
    model = OnnxClassifier(project.deploy / file, device="cpu")
    card = model.card
    assert (card.image_px, card.cut_px, card.resize_px) == (STUDENT_PX, TEACHER_PX, STORED_PX)
    test = Split.load(project.data, "test", cards.load(project.data))
    served = []
    for image in test.images:
        picture = io.BytesIO()
        Image.fromarray(image).save(picture, "PNG")
        served.append(decode(picture.getvalue(), card.image_px, card.resize_px, card.cut_px))
    logits = model.outputs(np.stack(served))[1]
    evaluated = np.load(project.folder / "students/kd/0/logits.npy")
    if file == "student.onnx":
        np.testing.assert_allclose(logits, evaluated, atol=1e-4)
    else:
        top1 = read(project.deploy / "quantization.json")["students"]["int8"]["test"]["top1"]
        assert 100 * (logits.argmax(1) == test.labels).mean() == pytest.approx(top1)


def test_a_view_that_is_made_smaller_is_what_evaluation_shows_but_for_the_rounding(project: Project) -> None:
    card = cards.load(project.data)
    whole, seen = (
        Feed(Split.load(project.data, "val", card, px), tiny.NORMALIZATION, tiny.CPU) for px in (None, STUDENT_PX)
    )
    positions = torch.arange(8)
    trained, evaluated = augment.smaller(whole.images(positions), STUDENT_PX), seen.images(positions)
    assert evaluated.shape == (8, 3, STUDENT_PX, STUDENT_PX)
    levels = torch.tensor(tiny.NORMALIZATION.std).view(3, 1, 1) * 255
    assert ((trained - evaluated) * levels).abs().max() < 1
    torch.testing.assert_close(seen.middles(positions), whole.images(positions))
    first = (next(feed.train_batches(augment.Augment(), 0, 0, 4, True))[0] for feed in (whole, seen))
    torch.testing.assert_close(*first)


def test_a_method_that_shows_itself_asks_both_networks_at_their_own_size(project: Project) -> None:
    assert read(project.student("afd") / "history.json")["epochs"][0]["attention"]["images"] == 16
    chosen = project.folder / "chosen.json"
    write_json(chosen, {"method": "kd", "seed": 0})
    out = project.folder / "energy_maps.json"
    weights = project.teacher / "model.safetensors"
    energy_maps(project.params, project.data, weights, project.folder / "students", chosen, out)
    heights = {network["name"]: network["stages"][0]["height"] for network in read(out)["networks"]}
    assert heights == {"teacher": TEACHER_PX, "kd": STUDENT_PX, "afd": STUDENT_PX}


def test_a_student_cut_from_its_teacher_is_measured_against_it_at_the_teachers_size(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project.settings("pruned", pruned={"share_of_macs": 0.2, "round_to": 4})
    try:
        cut_student(project.params, project.teacher / "model.safetensors", project.data, tmp_path / "start")
        student, header = checkpoint.load(tmp_path / "start/weights.safetensors")
        out = project.student("kd", tmp_path / "start")
    finally:
        project.settings()
    assert (header.image_px, header.cut_px) == (STUDENT_PX, TEACHER_PX)
    share = count_macs(student, STUDENT_PX) / read(project.teacher / "evaluation.json")["macs"]
    # A fourth of the pixels do most of it.
    assert 0.1 < share <= 0.2
    assert "times as fast" in capsys.readouterr().out
    assert checkpoint.load(out / "model.safetensors")[1].image_px == STUDENT_PX


def test_images_smaller_than_a_network_sees_are_refused(project: Project) -> None:
    with pytest.raises(
        DataError, match=r"sees images of 17 px cannot be shown those in .*, out of which 16 px are cut"
    ):
        Split.load(project.data, "test", cards.load(project.data), TEACHER_PX + 1)


def test_where_both_see_the_same_headers_stay_as_they_were() -> None:
    made = checkpoint.make_header(tiny.network(), tiny.card(), tiny.NORMALIZATION, None, 0, {})
    assert "cut_px" not in made.model_dump(mode="json")
