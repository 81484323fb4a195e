"""Train the teacher on the labels, take the weights that teacher.weights names, or train their last layer anew."""

import sys
from pathlib import Path

import torch

from pipeline.data import card as cards
from pipeline.data.arrays import Split
from pipeline.data.card import DataCard
from pipeline.data.feed import Feed
from pipeline.devices.precision import best_device
from pipeline.distillation import vanilla
from pipeline.distillation.base import Method
from pipeline.evaluation import label_order
from pipeline.evaluation.metrics import classification, predict
from pipeline.models import checkpoint
from pipeline.models.base import build_to_train, spec_of
from pipeline.settings import params as parameters
from pipeline.settings.data import validation_label
from pipeline.settings.networks import Teacher
from pipeline.system.errors import CheckpointError, ParamsError
from pipeline.system.files import write_json
from pipeline.training import batch_sizes, last_layer
from pipeline.weights import foreign_weights, weight_files
from stages import _run
from stages._live import recorder
from stages._processes import in_processes
from stages._train import decisive, train


@in_processes(lambda params: params.teacher.train.processes if params.teacher.trains else 1)
def train_teacher(params: Path, data: Path, out: Path, resume: Path) -> None:
    """Leave a teacher in `out`: model.safetensors, history.json, and DVCLive's metrics and plots."""
    settings = parameters.load(params)
    card, teacher = cards.load(data), settings.teacher
    if not teacher.trains:
        _take(teacher, card, data, out)
        return
    # The students' batches too: what they cannot do shall not be said hours later.
    try:
        batch_sizes.of_epoch(card.counts["train"], settings.distill.train, settings.distill.train.processes)
    except ParamsError as error:
        raise ParamsError(f"params.yaml: distill.train: {error}") from error
    torch.manual_seed(teacher.seed)
    decided = teacher.model_dump(exclude={"head"}) | {"train": decisive(teacher.train)}
    if teacher.head is None:
        spec = spec_of(teacher.arch, card.num_classes, card.image_px)
        network, normalization = build_to_train(spec, teacher.pretrained, "teacher"), card.normalization
        objective: Method = vanilla.Method(vanilla.Config(), network, None, card)
    else:
        network, normalization, begun, said = last_layer.begin(teacher, card)
        print(*said, sep="\n", file=sys.stderr)
        objective, decided = last_layer.LastLayer(network, card), decided | begun | {"head": teacher.head}
    facts = {"teacher": decided, "augment": settings.augment.model_dump()}
    train(objective, teacher.train, settings.augment, None, teacher.seed, data, facts, resume, out, None, normalization)


def _take(teacher: Teacher, card: DataCard, data: Path, out: Path) -> None:
    """Check weights from outside, validate them, and store them as if trained here."""
    path = Path(teacher.weights or "")
    model, normalization, said = foreign_weights.teacher(path, teacher.arch, teacher.normalization, card, False)
    print(*said, sep="\n", file=sys.stderr)
    feed = Feed(Split.load(data, "val", card), normalization, best_device())
    logits, labels = predict(model, feed)
    scores = classification(logits, labels)
    doubt = label_order.doubt(logits, labels, card.labels)
    if doubt is not None and doubt.is_certain:
        raise CheckpointError(f"{path}: {doubt.text}")
    header = checkpoint.make_header(
        model, card, normalization, None, None, {"weights_sha256": weight_files.sha256(path)}
    )
    checkpoint.save(model, header, out / "model.safetensors")
    seen = card.train_includes_val
    with recorder(out, seen) as record:
        record({"epoch": 0, "val": scores})
    history = {"taken": {"val_top1": scores["top1"]}, "val_seen_in_training": seen, "epochs": []}
    write_json(out / "history.json", history)
    print(f"{teacher.arch} taken from {path}: {validation_label('validation', seen)} top-1 {scores['top1']:.2f} %")
    if doubt is not None:
        print(f"warning: {doubt.text}", file=sys.stderr)


if __name__ == "__main__":
    _run.main(train_teacher)
