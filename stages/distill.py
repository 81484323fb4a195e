"""Distil one student from the teacher by one method with one seed."""

from pathlib import Path

import torch

from pipeline.data import card as cards
from pipeline.devices.precision import best_device
from pipeline.distillation.base import Teacher, find
from pipeline.models import checkpoint
from pipeline.models.base import build_to_train
from pipeline.settings import params as parameters
from pipeline.system.files import sha256
from pipeline.teaching import recall
from pipeline.teaching.card import facts_of
from stages import _run
from stages._processes import in_processes
from stages._train import decisive, train


@in_processes(lambda params: params.distill.train.processes)
def distill(
    params: Path,
    method: str,
    seed: int,
    teacher: Path,
    data: Path,
    out: Path,
    resume: Path,
    teaching: Path | None = None,
) -> None:
    """Leave a student in `out`: model.safetensors, history.json, and DVCLive's metrics and plots.

    Without `teaching`, the folder of a teacher cache, the teacher runs whatever teach.cache says.
    """
    settings = parameters.load(params)
    config = parameters.method_config(settings, method)
    card = cards.load(data)
    network, header = checkpoint.load(teacher)
    torch.manual_seed(seed)
    spec = {"arch": settings.student.arch, "num_classes": card.num_classes}
    student = build_to_train(spec, settings.student.pretrained, "student")
    objective = find(method).Method(config, student, Teacher(network, header.normalization), card)
    if settings.teach.cache and teaching is not None:
        recall.attach(objective, teaching, facts_of(settings, teacher, card, best_device()))
    views = settings.teach.views
    facts = {
        "method": {method: config.model_dump()},
        "student": settings.student.model_dump(),
        "train": decisive(settings.distill.train),
        "augment": settings.augment.model_dump() | ({} if views is None else {"views": views}),
        "teacher_sha256": sha256(teacher),
    }
    train(objective, settings.distill.train, settings.augment, method, seed, data, facts, resume, out, views)


if __name__ == "__main__":
    _run.main(distill)
