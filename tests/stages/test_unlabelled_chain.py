"""From a folder of images without labels to a student that has seen them, by the stages."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from pipeline.models import checkpoint
from pipeline.system.errors import ParamsError
from stages.distill import distill
from stages.prepare import prepare
from stages.train_teacher import train_teacher
from tests import pictures, toy

ONCE = {"epochs": 1, "batch_size": 4, "lr": 0.01, "milestones": [0.5], "precision": "fp32"}


@pytest.mark.slow
def test_a_student_learns_from_them_and_the_teacher_stays_as_it_is(tmp_path: Path) -> None:
    names = [f"{split}/{kind}/{i}.png" for split in ("train", "test") for kind in ("cat", "dog") for i in range(6)]
    pictures.write(tmp_path / "photos", *names)
    (tmp_path / "more").mkdir()
    shutil.copy(toy.ROOT / "params.yaml", tmp_path)
    params, teacher = tmp_path / "params.yaml", tmp_path / "teacher"
    toy.edit(
        tmp_path,
        {
            "data.source": "folder",
            "data.path": str(tmp_path / "photos"),
            "data.unlabelled": str(tmp_path / "more"),
            "teacher.arch": "resnet8",
            "teacher.train": ONCE,
            "distill.train": ONCE | {"unlabelled_share": 0.5},
        },
    )
    facts = []
    for number in range(100, 108):
        Image.fromarray(pictures.noise(number)).save(tmp_path / f"more/{number}.png")
        if number % 4 != 3:
            continue
        data = tmp_path / f"data-{number}"
        prepare(params, data)
        if not facts:
            train_teacher(params, data, teacher, tmp_path / "teacher.resume")
        out = tmp_path / f"student-{number}"
        distill(params, "kd", 0, teacher / "model.safetensors", data, out, tmp_path / "resume")
        (epoch,) = json.loads((out / "history.json").read_text(encoding="utf-8"))["epochs"]
        facts.append((checkpoint.load(out / "model.safetensors")[1].params_sha256, epoch["train"]["kl"]))
    # With other images it is another training, of the same teacher.
    assert all(len(set(both)) == 2 for both in zip(*facts, strict=True))
    with pytest.raises(ParamsError, match="vanilla learns from labels alone"):
        distill(params, "vanilla", 0, teacher / "model.safetensors", data, tmp_path / "other", tmp_path / "resume")
