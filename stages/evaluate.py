"""Measure one network on the test split, which nothing else looks at while choices are still being made."""

from pathlib import Path

import torch

from pipeline import checkpoint, metrics
from pipeline import params as parameters
from pipeline.data import card as cards
from pipeline.data.arrays import Split
from pipeline.data.feed import Feed
from pipeline.files import write_json
from pipeline.models.base import Classifier, count_macs, num_parameters, title
from stages import _run


def evaluate(params: Path, model: Path, data: Path, out: Path, teacher: Path | None = None) -> None:
    """Write test scores and sizes to the JSON file `out`; with --teacher, the agreement with it too."""
    settings = parameters.load(params).evaluate
    card = cards.load(data)
    split = Split.load(data, "test", card)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def predict(network: Classifier, header: checkpoint.Header) -> tuple[torch.Tensor, torch.Tensor]:
        return metrics.predict(network.to(device), Feed(split, header.normalization, device), settings.batch_size)

    network, header = checkpoint.load(model)
    logits, labels = predict(network, header)
    scores = metrics.classification(logits, labels, settings.ece_bins)
    if teacher is not None:
        scores |= metrics.agreement(logits, predict(*checkpoint.load(teacher))[0])
    record = {
        "arch": title(header.model),
        "method": header.method,
        "seed": header.seed,
        "test": scores,
        "images": len(split),
        "num_parameters": num_parameters(network),
        "macs": count_macs(network, card.image_px),
        "size_bytes": model.stat().st_size,
    }
    write_json(out, record)
    who = header.method or "teacher"
    print(f"{who} ({title(header.model)}): test top-1 {scores['top1']:.2f} %, top-5 {scores['top5']:.2f} %")


if __name__ == "__main__":
    _run.main(evaluate)
