"""A network with random weights as the files that it would ship as."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.deployment import trial
from serve.model.classifier import OnnxClassifier
from tests import tiny


@pytest.mark.slow
def test_both_files_are_served(tmp_path: Path) -> None:
    float32 = trial.write(tiny.network("resnet8"), 16, 20, tmp_path / "float32.onnx")
    int8 = trial.write_int8(float32, tmp_path / "int8.onnx")
    assert int8.stat().st_size < 0.5 * float32.stat().st_size
    files = [OnnxClassifier(path, device="cpu") for path in (float32, int8)]
    assert [file.card.precision for file in files] == ["float32", "int8"]
    answers = [file(np.zeros((3, 16, 16, 3), np.uint8)) for file in files]
    np.testing.assert_allclose(*answers, atol=0.1)
