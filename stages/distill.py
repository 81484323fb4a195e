"""Distil one student from the teacher by one method with one seed."""

from pathlib import Path

import torch

from pipeline import checkpoint
from pipeline import params as parameters
from pipeline.data import card as cards
from pipeline.distillation.base import Teacher, find
from pipeline.files import sha256
from pipeline.models.base import build_to_train
from stages import _run
from stages._processes import in_processes
from stages._train import decisive, train


@in_processes(lambda params: params.distill.train.processes)
def distill(params: Path, method: str, seed: int, teacher: Path, data: Path, out: Path, resume: Path) -> None:
    """Leave a student in `out`: model.safetensors, history.json, and DVCLive's metrics and plots."""
    settings = parameters.load(params)
    config = parameters.method_config(settings, method)
    card = cards.load(data)
    network, header = checkpoint.load(teacher)
    torch.manual_seed(seed)
    spec = {"arch": settings.student.arch, "num_classes": card.num_classes}
    student = build_to_train(spec, settings.student.pretrained, "student")
    objective = find(method).Method(config, student, Teacher(network, header.normalization), card)
    facts = {
        "method": {method: config.model_dump()},
        "student": settings.student.model_dump(),
        "train": decisive(settings.distill.train),
        "augment": settings.augment.model_dump(),
        "teacher_sha256": sha256(teacher),
    }
    train(objective, settings.distill.train, settings.augment, method, seed, data, facts, resume, out)


if __name__ == "__main__":
    _run.main(distill)
