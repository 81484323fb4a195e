"""Train the int8 student further, in its own arithmetic, towards its teacher: where quantize.train asks for it."""

import hashlib
from pathlib import Path
from typing import Any

import torch

from pipeline.data import card as cards
from pipeline.data import unlabelled
from pipeline.data.arrays import Split
from pipeline.data.feed import training_feeds
from pipeline.deployment import eight_bits, gate, onnx_file
from pipeline.deployment import quantize as quantizing
from pipeline.deployment.simulated import Simulated, unknown
from pipeline.deployment.simulation_check import check_simulation
from pipeline.devices.memory import keep_freed_memory
from pipeline.devices.precision import best_device
from pipeline.distillation.base import Teacher
from pipeline.evaluation import metrics
from pipeline.models import checkpoint
from pipeline.settings import params as parameters
from pipeline.system.files import sha256, write_json
from pipeline.system.run_key import run_key
from pipeline.system.scratch import replacing_folder
from pipeline.training import engine
from pipeline.training.resume import Resume
from stages import _run

_CHECKED_IMAGES = 1000


def distill_int8(
    params: Path, student: Path, weights: Path, teacher: Path, data: Path, out: Path, resume: Path
) -> None:
    """Leave record.json in the folder `out`, and with quantize.train student.int8.onnx and history.json beside it.

    `weights` are those that `student` (ONNX) was exported from.
    """
    settings = parameters.load(params)
    asked = settings.quantize.train
    if asked is None:
        _write(out, {"distilled": False, "reason": "quantize.train is null: nothing was asked for"})
        return
    data_card, (model, card) = cards.load(data), onnx_file.read(student)
    image_px = card["image_px"]
    train, val = (Split.load(data, name, data_card, image_px) for name in ("train", "val"))
    images = quantizing.calibration(train, settings.quantize)
    quantizer = quantizing.Quantizer(model, images, settings.quantize.way, settings.quantize.reduce_range)
    start = quantizer.model()
    if names := unknown(start):
        reason = f"the student has operators that cannot be simulated: {', '.join(names)}"
        print(f"not distilled in eight bits: {reason}. Ranges are those of the calibration images.")
        _write(out, {"distilled": False, "reason": reason})
        return
    keep_freed_memory()
    seed = settings.quantize.seed
    torch.manual_seed(seed)
    seen = data_card.model_copy(update={"image_px": image_px})
    source, source_px = (teacher, data_card.image_px) if asked.teacher == "teacher" else (weights, image_px)
    network, header = checkpoint.load(source)
    taught_by = Teacher(network, header.normalization, source_px)
    simulated = Simulated(start, quantizer.float32)
    on_images = eight_bits.OnImages(simulated, data_card.normalization, f"{card['arch']} in eight bits")
    objective = eight_bits.Method(asked, on_images, taught_by, seen)
    facts = {
        "quantize": settings.quantize.model_dump(),
        "augment": settings.augment.model_dump(),
        "start_sha256": hashlib.sha256(start.SerializeToString(deterministic=True)).hexdigest(),
        "teacher_sha256": sha256(source),
        "data": data_card.sha256,
        "normalization": data_card.normalization.model_dump(),
        **unlabelled.identity(data, data_card, asked.unlabelled_share),
    }
    state, more = Resume(resume, run_key(facts, "torch")), asked.unlabelled_share > 0
    feeds = training_feeds(data, data_card, data_card.normalization, best_device(), None, more, image_px)
    seen_val = data_card.train_includes_val
    result = engine.fit(objective, *feeds, asked.recipe, settings.augment, seed, state, lambda record: None, seen_val)
    written = simulated.cpu().written()
    some, size = gate.spread(len(val), _CHECKED_IMAGES), metrics.batch_size(image_px)
    pixels = torch.from_numpy(val.central_reader()(some)).float()
    with torch.inference_mode():
        expected = torch.cat([simulated(pixels[at : at + size]) for at in range(0, len(pixels), size)])
    agreement = check_simulation(expected, gate.predict(written, val, size, some), simulated.one_step(pixels))
    summary = {**result.summary(), "val_seen_in_training": seen_val}
    record = {"distilled": True, "teacher": asked.teacher, **summary, "simulation": agreement}
    with replacing_folder(out) as folder:
        onnx_file.write(written, card, folder / quantizing.INT8)
        write_json(folder / "history.json", {**summary, "epochs": result.history})
        write_json(folder / "record.json", record)
    state.clear()


def _write(out: Path, record: dict[str, Any]) -> None:
    with replacing_folder(out) as folder:
        write_json(folder / "record.json", record)


if __name__ == "__main__":
    _run.main(distill_int8)
