"""The whole chain by DVC on photographs in Stanford40's layout, by its preset: ResNet-34 to ResNet-18 at 224 px."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from pipeline.data import arrays
from pipeline.data import card as cards
from serve.app import create_app
from serve.model import OnnxClassifier
from tests import photographs, toy

pytestmark = pytest.mark.slow

STUDENT = "artifacts/students/afd/0"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy project on few photographs of mixed sizes, for one epoch, after `dvc repro`."""
    folder = toy.make(tmp_path_factory.mktemp("large"))
    photographs.stanford40(folder / "stanford40", train=6, test=2)
    preset = str(toy.ROOT / "presets/stanford40.yaml")
    toy.run(folder, "python", "-m", "stages.apply_preset", "--preset", preset)
    once: dict[str, Any] = {"epochs": 1, "batch_size": 6, "lr": 0.01, "milestones": [0.5], "precision": "fp32"}
    toy.edit(
        folder,
        {
            "data.val_fraction": 0.34,
            # Pretrained weights would come from the network.
            "teacher": {"arch": "resnet34", "train": once},
            "student": {"arch": "resnet18"},
            "distill.train": once,
            "distill.methods": {"afd": {}},
            "deploy.method": "afd",
            "quantize.images": 8,
            "benchmark.batch_sizes": [1],
            "benchmark.samples": 20,
            "benchmark.loadgen": None,
            "benchmark.cold_starts": 0,
        },
    )
    toy.repro(folder)
    return folder


def test_images_are_stored_larger_than_networks_see_them(project: Path) -> None:
    card = cards.load(project / "data/prepared")
    assert (card.storage_px, card.image_px, card.counts) == (256, 224, {"train": 12, "val": 6, "test": 6})
    for name in ("student", "teacher"):
        onnx = OnnxClassifier(project / f"artifacts/deploy/{name}.onnx").card
        assert (onnx.resize_px, onnx.image_px, onnx.labels) == (256, 224, card.labels)


def test_what_is_served_is_what_was_evaluated(project: Path) -> None:
    """From an upload of a test photograph to the very answer of evaluation, and so to its top-1."""
    card = cards.load(project / "data/prepared")
    test = arrays.Split.load(project / "data/prepared", "test", card)
    model = OnnxClassifier(project / "artifacts/deploy/student.onnx")
    expected = model(test.central_reader()(np.arange(len(test))))
    answers, labels = [], []
    with TestClient(create_app({"student": model})) as client:
        for number, label in enumerate(card.labels):
            for name in (project / f"stanford40/ImageSplits/{label}_test.txt").read_text().split():
                upload = (project / "stanford40/JPEGImages" / name).read_bytes()
                answer = client.post("/classify?top=3", content=upload, headers={"Content-Type": "image/jpeg"})
                top = {one["label"]: one["probability"] for one in answer.json()["top"]}
                answers.append([top[other] for other in card.labels])
                labels.append(number)
    assert labels == test.labels.tolist()
    np.testing.assert_allclose(answers, expected, rtol=1e-4, atol=1e-6)
    evaluation = json.loads((project / STUDENT / "evaluation.json").read_text())
    assert 100 * np.mean(np.argmax(answers, 1) == labels) == pytest.approx(evaluation["test"]["top1"])
