"""Export the deployed student and its teacher to ONNX, and prove on real images that the files compute the same."""

import json
from pathlib import Path

import numpy as np

from pipeline.data import card as cards
from pipeline.data.arrays import Split
from pipeline.deployment import export as exporting
from pipeline.models import checkpoint
from pipeline.settings import params as parameters
from pipeline.system.files import replacing_all, write_json
from serve.errors import ServeError
from serve.model.classifier import OnnxClassifier
from stages import _run

PARITY_BATCHES = (1, 3, 64)


def export(
    params: Path, student: Path, student_scores: Path, teacher: Path, teacher_scores: Path, data: Path, out: Path
) -> None:
    """Write student.onnx, teacher.onnx and parity.json to `out`; where parity fails, no new file stands there."""
    settings = parameters.load(params).deploy
    data_card = cards.load(data)
    parity = {}
    with replacing_all([out / "student.onnx", out / "teacher.onnx"]) as (student_file, teacher_file):
        for name, weights, scores, file in (
            ("student", student, student_scores, student_file),
            ("teacher", teacher, teacher_scores, teacher_file),
        ):
            model, header = checkpoint.load(weights)
            test_scores = json.loads(scores.read_text(encoding="utf-8"))["test"]
            test = Split.load(data, "test", data_card, header.image_px)
            pixels = test.central_reader()(np.arange(min(max(PARITY_BATCHES), len(test))))
            servable = exporting.Servable(model, header.normalization)
            card = exporting.make_card(name, header, test_scores)
            exporting.write_onnx(servable, card, file, settings.opset)
            # Always the CPU: an accelerator's own rounding (TF32) would pass for drift of the export.
            classifier = OnnxClassifier(file, device="cpu")
            parity[name] = exporting.check_parity(
                servable, classifier.outputs, pixels, PARITY_BATCHES, settings.max_probability_error
            )
            worst = max(record["max_probability_error"] for record in parity[name])
            print(f"{name}: {file.stat().st_size / 1e6:.2f} MB, probabilities equal torch's to {worst:.1e}")
    write_json(out / "parity.json", parity)


if __name__ == "__main__":
    _run.main(export, ServeError)
