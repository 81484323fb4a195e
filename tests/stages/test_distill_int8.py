"""Stage distill_int8 on a tiny pair: what it trains, writes, refuses, and goes on with after a stop; and quantize."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from pipeline.data import card as cards
from pipeline.deployment import export, gate, onnx_file
from pipeline.deployment.eight_bits import Method, OnImages
from pipeline.deployment.simulated import Simulated
from pipeline.distillation.base import Teacher
from pipeline.evaluation import logits_file
from pipeline.models import checkpoint
from pipeline.settings import params as parameters
from pipeline.settings.deployment import TrainInt8
from pipeline.system.errors import ParamsError, StoppedError
from stages import distill_int8 as module
from stages.distill_int8 import distill_int8
from stages.quantize import quantize
from tests import stopped, tiny
from tests.deployment.test_quantize import SIZES, prepared
from tests.models.test_checkpoint import header

pytestmark = pytest.mark.slow

ASKED = "quantize: {images: 32, reduce_range: true, train: {epochs: 2, batch_size: 16, lr: 0.01, temperature: 1"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a teacher and a student that know some of it, the student's ONNX file and its own answers."""
    folder = tmp_path_factory.mktemp("int8")
    torch.manual_seed(0)
    labels = tiny.split(64).labels
    data = cards.load(prepared(folder / "data", labels))
    for name, arch in (("teacher", "resnet14"), ("student", "resnet8")):
        network = tiny.network(arch)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        for images, targets in [*tiny.feed(64).eval_batches(32)] * 4:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network.train()(images), targets).backward()
            optimizer.step()
        head = checkpoint.make_header(network.eval(), data, tiny.NORMALIZATION, None, 0, {})
        checkpoint.save(network, head, folder / f"{name}.safetensors")
    card = export.make_card("student", header("resnet8"), {"top1": 1.0}) | SIZES | {"image_px": tiny.IMAGE_PX}
    export.write_onnx(export.Servable(network, tiny.NORMALIZATION), card, folder / "student.onnx", 20)
    logits_file.write(folder / "logits.npy", np.eye(tiny.CLASSES, dtype=np.float32)[labels])
    return folder


def run(project: Path, out: Path, settings: str) -> dict[str, Any]:
    """The stage; its record."""
    params = out.parent / f"{out.name}.yaml"
    params.write_text(settings)
    files = [project / name for name in ("student.onnx", "student.safetensors", "teacher.safetensors", "data")]
    distill_int8(params, *files, out, out.parent / "resume.safetensors")
    record: dict[str, Any] = json.loads((out / "record.json").read_text(encoding="utf-8"))
    return record


def test_nothing_is_trained_where_nothing_was_asked_for(project: Path, tmp_path: Path) -> None:
    assert run(project, tmp_path / "out", "{}")["distilled"] is False
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["record.json"]


@pytest.mark.parametrize("teacher", ["teacher", "student"])
def test_the_distilled_file_computes_what_was_trained_and_is_what_quantize_judges(
    teacher: str, project: Path, tmp_path: Path
) -> None:
    record = run(project, tmp_path / "out", f"{ASKED}, teacher: {teacher}}}}}")
    assert (record["distilled"], record["teacher"], record["shipped_epoch"]) == (True, teacher, 2)
    assert record["simulation"]["of_allowed"] <= 1
    history = json.loads((tmp_path / "out/history.json").read_text(encoding="utf-8"))
    first, last = (epoch["train"]["kl"] for epoch in history["epochs"])
    # From itself it differs by rounding alone, from the first step on.
    assert last < first if teacher == "teacher" else last < 1e-3
    assert not (tmp_path / "resume.safetensors").exists()
    judged, record_file = tmp_path / "quantized", tmp_path / "quantization.json"
    files = [project / name for name in ("student.onnx", "logits.npy", "data")]
    quantize(tmp_path / "out.yaml", *files, judged, record_file, tmp_path / "out")
    students = json.loads(record_file.read_text(encoding="utf-8"))["students"]
    assert students["int8"]["how"] == "distilled"
    file, card = onnx_file.read(judged / Path(students["int8"]["file"]).name)
    assert (card["precision"], card["weight_bits"]) == ("int8", 7)
    distilled = onnx_file.read(tmp_path / "out/student.int8.onnx")[0]
    pixels = tiny.split(64, seed=2)
    assert torch.equal(gate.predict(file, pixels, 16), gate.predict(distilled, pixels, 16))
    if teacher == "student":
        return
    quantize(tmp_path / "out.yaml", *files, judged, record_file)
    students = json.loads(record_file.read_text(encoding="utf-8"))["students"]
    assert students["int8"]["how"] == "post-training"


def test_a_stop_changes_no_number(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(project, tmp_path / "whole", f"{ASKED}}}}}")
    whole = (tmp_path / "whole/student.int8.onnx").read_bytes()
    seen = stopped.at_step(6, monkeypatch)
    with pytest.raises(StoppedError):
        run(project, tmp_path / "parts", f"{ASKED}}}}}")
    assert not (tmp_path / "parts").exists()
    run(project, tmp_path / "parts", f"{ASKED}}}}}")
    assert len(seen) == 8
    assert (tmp_path / "parts/student.int8.onnx").read_bytes() == whole


def test_an_operator_that_cannot_be_simulated_is_said_and_calibration_is_left(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_det(model: Any, *arguments: Any) -> Any:
        return Strange(model)

    class Strange:
        def __init__(self, model: onnx.ModelProto) -> None:
            self.float32 = model

        def model(self) -> onnx.ModelProto:
            made = onnx.ModelProto()
            made.CopyFrom(self.float32)
            softmax = made.graph.node[-1]
            made.graph.node.insert(len(made.graph.node) - 1, helper.make_node("Mish", ["before"], ["logits"]))
            for node in made.graph.node[:-2]:
                node.output[:] = ["before" if name == "logits" else name for name in node.output]
            assert softmax.op_type == "Softmax"
            return made

    monkeypatch.setattr(module.quantizing, "Quantizer", with_det)
    record = run(project, tmp_path / "out", f"{ASKED}}}}}")
    assert record == {"distilled": False, "reason": "the student has operators that cannot be simulated: Mish"}


def test_pixels_come_back_from_normalised_images_to_the_last_one(project: Path) -> None:
    model = onnx_file.read(project / "student.onnx")[0]
    quantizer = module.quantizing.Quantizer(model, [tiny.split(32).images])
    simulated = Simulated(quantizer.model(), quantizer.float32)
    every = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(2, 16, 16, 3)
    student = OnImages(simulated, tiny.NORMALIZATION, "resnet8")
    assert torch.equal(student(tiny.normalized(every)), simulated(every.float()))


def test_a_teacher_of_other_classes_is_refused_with_the_way_out(project: Path) -> None:
    model = onnx_file.read(project / "student.onnx")[0]
    quantizer = module.quantizing.Quantizer(model, [tiny.split(1).images])
    student = OnImages(Simulated(quantizer.model(), quantizer.float32), tiny.NORMALIZATION, "resnet8")
    other = Teacher(tiny.network("resnet14", classes=7).eval(), tiny.NORMALIZATION)
    with pytest.raises(ParamsError, match=r"knows 7 classes and the data set has 4: .* Set it to student"):
        Method(TrainInt8(), student, other, tiny.card())
    labels_alone = Method(TrainInt8(kl_weight=0, ce_weight=1), student, other, tiny.card())
    logits, terms = labels_alone(tiny.batch())
    assert (list(terms), logits.shape) == (["ce"], (8, 4))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("{ce_weight: 0, kl_weight: 0}", "both 0, so that nothing would be learnt"),
        ("{unlabelled_share: 0.5, kl_weight: 0}", "images without labels teach by kl_weight alone"),
        ("{unlabelled_share: 0.5}", r"quantize\.train\.unlabelled_share is 0.5, but data.unlabelled is null"),
        ("{batch_size: 2, unlabelled_share: 0.1}", "leaves no unlabelled image in a batch"),
        ("{teacher: other}", "teacher"),
        ("{epochs: 0}", "epochs"),
    ],
)
def test_settings_that_cannot_work_are_named_before_anything_runs(settings: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(f"quantize: {{train: {settings}}}")
    with pytest.raises(ParamsError, match=said):
        parameters.load(tmp_path / "params.yaml")
