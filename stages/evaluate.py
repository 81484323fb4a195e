"""Measure one network on the test split, which chooses nothing."""

from pathlib import Path

import torch

from pipeline.data import card as cards
from pipeline.data.arrays import Split
from pipeline.data.feed import Feed
from pipeline.devices.precision import best_device
from pipeline.evaluation import logits_file, metrics
from pipeline.evaluation.analysis import analyse, tables
from pipeline.evaluation.comparison import Bootstrap
from pipeline.models import checkpoint
from pipeline.models.base import count_macs, num_parameters, title
from pipeline.models.fold import folded
from pipeline.settings import params as parameters
from pipeline.system.errors import CheckpointError
from pipeline.system.files import write_csv, write_json
from stages import _run


def evaluate(params: Path, model: Path, data: Path, out: Path, teacher: Path | None = None) -> None:
    """Write evaluation.json, analysis.json, logits.npy and the tables of DVC's plots to the folder `out`.

    `teacher` is the logits.npy of its own evaluation; with it, the two are compared. The validation split is scored
    too: the figure is that of training.
    """
    settings = parameters.load(params).evaluate
    card = cards.load(data)
    network, header = checkpoint.load(model)
    checkpoint.check_data(header, card, model)

    def predict(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        split = Split.load(data, name, card, header.image_px)
        return metrics.predict(network, Feed(split, header.normalization, best_device()))

    validation = metrics.classification(*predict("val"))
    logits, labels = predict("test")
    if broken := int((~logits.isfinite()).any(1).sum()):
        raise CheckpointError(
            f"{model} gives answers that are not finite for {broken} of {len(labels)} test images: its training "
            "failed. Lower train.lr, or set train.precision to fp32, and train again."
        )
    scores, taught = metrics.classification(logits, labels), None
    if teacher is not None:
        taught = torch.from_numpy(logits_file.read(teacher, len(labels), card.num_classes, "evaluate_teacher"))
        scores |= metrics.agreement(logits, taught)
    shipped = folded(network)
    right = (logits.argmax(1) == labels).numpy()
    record = {
        "arch": title(header.model),
        "method": header.method,
        "seed": header.seed,
        "test": scores,
        "top1_interval": Bootstrap(settings.resamples, settings.seed).accuracy(right),
        "val": validation,
        "val_seen_in_training": card.train_includes_val,
        "images": len(labels),
        "num_parameters": num_parameters(shipped),
        "macs": count_macs(shipped, header.image_px),
        "size_bytes": model.stat().st_size,
    }
    analysis = analyse(logits, labels, card.labels, taught)
    write_json(out / "analysis.json", analysis, indent=None)
    for name, rows in tables(analysis, logits, labels, card.labels):
        write_csv(out / f"{name}.csv", rows)
    write_json(out / "evaluation.json", record)
    logits_file.write(out / "logits.npy", logits.numpy())
    who = header.method or "teacher"
    print(f"{who} ({title(header.model)}): test top-1 {scores['top1']:.2f} %, top-5 {scores['top5']:.2f} %")


if __name__ == "__main__":
    _run.main(evaluate)
