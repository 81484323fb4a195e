"""The ONNX file computes what the trained network does, says what it is, and is the same file every time."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.deployment import export
from pipeline.models.base import Classifier, count_macs, num_parameters
from pipeline.models.fold import folded
from pipeline.system.errors import ParityError
from serve.model.classifier import OnnxClassifier
from tests import tiny
from tests.models.test_checkpoint import header


@pytest.fixture(scope="module", params=["resnet8", "wrn_16_1", "timm/mobileone_s0"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[export.Servable, Path]:
    model = tiny.network(request.param)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
    torch.nn.init.normal_(model.fc.bias)
    model.train()(torch.randn(16, 3, 32, 32))  # BN statistics that are not the initial ones
    servable = export.Servable(model.eval(), tiny.NORMALIZATION)
    path = tmp_path_factory.mktemp("onnx") / "student.onnx"
    export.write_onnx(servable, export.make_card("student", header(request.param), {"top1": 12.5}), path, 20)
    return servable, path


def test_parity_on_images_at_three_batch_sizes(exported: tuple[export.Servable, Path]) -> None:
    servable, path = exported
    classifier = OnnxClassifier(path, device="cpu")
    records = export.check_parity(servable, classifier.outputs, tiny.split(64).images, (1, 3, 64), 1e-5)
    assert [r["batch_size"] for r in records] == [1, 3, 64]
    assert all(r["top1_equal"] for r in records)


def test_parity_fails_where_the_file_computes_something_else(exported: tuple[export.Servable, Path]) -> None:
    classifier = OnnxClassifier(exported[1], device="cpu")
    other = export.Servable(tiny.network("resnet8", seed=9).eval(), tiny.NORMALIZATION)
    with pytest.raises(ParityError, match=r"at batch 3 .* differ from torch's by up to"):
        export.check_parity(other, classifier.outputs, tiny.split(8).images, (3,), 1e-4)


def test_the_card_counts_what_the_file_holds(exported: tuple[export.Servable, Path]) -> None:
    servable, path = exported
    card, lean = OnnxClassifier(path, device="cpu").card, folded(servable.model)
    assert card.num_parameters == num_parameters(lean) < num_parameters(servable.model)
    assert card.macs == count_macs(lean, 16)
    assert 1 <= path.stat().st_size / (4 * card.num_parameters) < 1.05
    merged = card.arch.startswith("timm")
    assert (card.macs < 0.3 * count_macs(servable.model, 16)) == merged


def test_parity_says_by_how_much_a_fused_network_differs(
    exported: tuple[export.Servable, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servable = exported[0]

    def wrong(model: Classifier) -> Classifier:
        lean = folded(model)
        torch.nn.init.zeros_(lean.fc.weight)
        return lean

    monkeypatch.setattr(export, "folded", wrong)
    export.write_onnx(servable, export.make_card("student", header("resnet8"), {}), tmp_path / "m.onnx", 20)
    classifier = OnnxClassifier(tmp_path / "m.onnx", device="cpu")
    with pytest.raises(ParityError) as raised:
        export.check_parity(servable, classifier.outputs, tiny.split(8).images, (3,), 1e-4)
    said = re.fullmatch(
        r"at batch 3 .* by up to (\S+), more than .* the fused network .* differs from the trained one by up to (\S+), "
        r"and the file from the fused one by up to (\S+)\. No file was written.*",
        str(raised.value),
    )
    assert said is not None
    whole, fused, exporter = map(float, said.groups())
    assert whole == pytest.approx(fused, rel=0.01)
    assert exporter < 1e-5


def test_the_servable_normalises_as_training_does() -> None:
    model = tiny.network().eval()
    servable = export.Servable(model, tiny.NORMALIZATION)
    images, _ = next(tiny.feed(4).eval_batches(4))
    probabilities, logits = servable(torch.from_numpy(tiny.split(4).images))
    torch.testing.assert_close(logits, model(images), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(4))


def test_the_card_travels_in_the_file(exported: tuple[export.Servable, Path]) -> None:
    card = OnnxClassifier(exported[1], device="cpu").card
    assert card.labels == tiny.card().labels
    assert (card.image_px, card.resize_px, card.method, card.metrics["top1"]) == (16, 20, "kd", 12.5)
    assert card.mean == tiny.NORMALIZATION.mean


def test_the_same_network_exports_to_the_same_bytes(exported: tuple[export.Servable, Path], tmp_path: Path) -> None:
    servable, path = exported
    classifier = OnnxClassifier(path, device="cpu")
    again = tmp_path / "again.onnx"
    arch = classifier.card.arch
    export.write_onnx(servable, export.make_card("student", header(arch), {"top1": 12.5}), again, 20)
    assert np.array_equal(np.frombuffer(again.read_bytes(), np.uint8), np.frombuffer(path.read_bytes(), np.uint8))
