"""Train the teacher on the labels, or take the weights that teacher.weights names."""

from pathlib import Path

import torch

from pipeline.data import card as cards
from pipeline.data.arrays import Split
from pipeline.data.feed import Feed
from pipeline.devices.precision import best_device
from pipeline.distillation import vanilla
from pipeline.evaluation.metrics import classification, predict
from pipeline.models import checkpoint
from pipeline.models.base import build_to_train
from pipeline.settings import params as parameters
from pipeline.settings.networks import Teacher
from pipeline.system.files import sha256, write_json
from pipeline.training import engine
from stages import _run
from stages._live import recorder
from stages._processes import in_processes
from stages._train import decisive, make_header, train


@in_processes(lambda params: 1 if params.teacher.weights else params.teacher.train.processes)
def train_teacher(params: Path, data: Path, out: Path, resume: Path) -> None:
    """Leave a teacher in `out`: model.safetensors, history.json, and DVCLive's metrics and plots."""
    settings = parameters.load(params)
    if settings.teacher.weights is not None:
        _take(settings.teacher, data, out)
        return
    card = cards.load(data)
    # The students' batches too: what they cannot do shall not be said hours later.
    engine.check_sizes(card.counts["train"], settings.distill.train, settings.distill.train.processes)
    torch.manual_seed(settings.teacher.seed)
    spec = {"arch": settings.teacher.arch, "num_classes": card.num_classes}
    network = build_to_train(spec, settings.teacher.pretrained, "teacher")
    objective = vanilla.Method(vanilla.Config(), network, None, card)
    facts = {
        "teacher": settings.teacher.model_dump() | {"train": decisive(settings.teacher.train)},
        "augment": settings.augment.model_dump(),
    }
    train(objective, settings.teacher.train, settings.augment, None, settings.teacher.seed, data, facts, resume, out)


def _take(teacher: Teacher, data: Path, out: Path) -> None:
    """Check weights from outside, validate them, and store them as if trained here."""
    path = Path(teacher.weights or "")
    card = cards.load(data)
    model, normalization = checkpoint.import_weights(path, teacher.arch, teacher.normalization, card)
    feed = Feed(Split.load(data, "val", card), normalization, best_device())
    scores = classification(*predict(model, feed))
    header = make_header(model, card, normalization, None, None, {"weights_sha256": sha256(path)})
    checkpoint.save(model, header, out / "model.safetensors")
    with recorder(out) as record:
        record({"epoch": 0, "val": scores})
    write_json(out / "history.json", {"taken": {"val_top1": scores["top1"]}, "epochs": []})
    print(f"{teacher.arch} taken from {path}: validation top-1 {scores['top1']:.2f} %")


if __name__ == "__main__":
    _run.main(train_teacher)
