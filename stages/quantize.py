"""Make the exported student smaller: in 8-bit integers and in half precision, accepted only where it is as accurate."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from pipeline.data import card as cards
from pipeline.data.arrays import Split
from pipeline.deployment import gate, onnx_file
from pipeline.deployment import quantize as quantizing
from pipeline.evaluation import logits_file, metrics
from pipeline.evaluation.comparison import Bootstrap
from pipeline.settings import params as parameters
from pipeline.system.files import write_json
from pipeline.system.scratch import replacing_folder
from stages import _run


def quantize(
    params: Path, student: Path, teacher: Path, data: Path, out: Path, record: Path, distilled: Path | None = None
) -> None:
    """Write the students into the folder `out`, with .refused in the name of each that is, and why to `record`.

    `teacher` is its logits.npy, to say how far each student lies from it on the test split. `distilled` is the folder
    of stage distill_int8.
    """
    everything = parameters.load(params)
    settings, max_drop = everything.quantize, everything.deploy.max_drop
    data_card, (model, card) = cards.load(data), onnx_file.read(student)
    seen, image_px = data_card.train_includes_val, card["image_px"]
    batch_size = metrics.batch_size(image_px)
    train, *splits = (Split.load(data, name, data_card, image_px) for name in ("train", "val", "test"))
    labels = [torch.from_numpy(np.array(split.labels)) for split in splits]
    said = logits_file.read(teacher, len(splits[1]), data_card.num_classes, "evaluate_teacher")
    taught = said.argmax(1) == splits[1].labels
    bootstrap = Bootstrap(everything.evaluate.resamples, everything.evaluate.seed)
    float32 = [gate.predict(model, split, batch_size) for split in splits]
    on_train = gate.on_train(model, train, batch_size)

    def scored(logits: list[torch.Tensor] | None) -> dict[str, Any]:
        if logits is None:
            return {"val": None, "test": None, "against_teacher": None}
        each = zip(("val", "test"), logits, float32, labels, strict=True)
        against = bootstrap.difference(logits[1].argmax(1).numpy() == splits[1].labels, taught)
        return {name: gate.scores(z, expected, y) for name, z, expected, y in each} | {"against_teacher": against}

    quantizers = {"int8": quantizing.Quantizer(model, quantizing.calibration(train, settings), settings)}
    if settings.tensorrt:
        batches = quantizing.calibration(train, settings)
        quantizers["int8_signed"] = quantizing.Quantizer(model, batches, settings, signed=True)
    made: dict[str, onnx.ModelProto] = {name: quantizer.model() for name, quantizer in quantizers.items()}
    made["fp16"] = quantizing.half(model)
    made["int8"], how = quantizing.distilled_or(made["int8"], distilled)
    students: dict[str, Any] = {
        "float32": {
            "file": student.name,
            "accepted": True,
            "reason": "the student as exported",
            "drop_points": 0.0,
            **scored(float32),
            "size_bytes": student.stat().st_size,
            "nodes": [],
        }
    }
    with replacing_folder(out) as folder:
        for name, smaller in made.items():
            logits = [gate.predict(smaller, split, batch_size) for split in splits]
            verdict = gate.decide(float32[0], logits[0], labels[0], max_drop, partial(on_train, smaller), seen)
            reason, nodes = verdict.reason, []
            if not verdict.accepted and name in quantizers:
                nodes = gate.damage(quantizers[name], float32[0], splits[0], batch_size)
                reason = f"{reason}; {gate.name_worst(nodes)}"
            print(f"student.{name}: {reason}")
            results = scored(logits if verdict.drop_points is not None else None)
            file = folder / f"student.{name}{'' if verdict.accepted else '.refused'}.onnx"
            own = {"name": f"student_{name}", "precision": name, "metrics": gate.measured(results["test"])}
            onnx_file.write(smaller, card | own, file)
            students[name] = {
                "file": f"{out.name}/{file.name}",
                **({"how": how} if name == "int8" else {}),
                "accepted": verdict.accepted,
                "reason": reason,
                "drop_points": verdict.drop_points,
                "validation_tells": verdict.validation_tells,
                **results,
                "size_bytes": file.stat().st_size,
                "nodes": nodes,
            }
    deployed = students["int8"]["file"] if students["int8"]["accepted"] else student.name
    print(f"deployed on CPUs: {deployed}")
    judged = {"max_drop": max_drop, "val_seen_in_training": seen, "deployed": deployed, "students": students}
    write_json(record, judged)


if __name__ == "__main__":
    _run.main(quantize)
