"""Distil one student from the teacher by one method with one seed."""

import json
from pathlib import Path

import torch

from pipeline.data import card as cards
from pipeline.devices.precision import best_device
from pipeline.distillation.base import Teacher, find
from pipeline.models import checkpoint
from pipeline.models.base import Classifier, build, build_to_train, spec_of
from pipeline.settings import params as parameters
from pipeline.settings.networks import Student
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
    start: Path | None = None,
) -> None:
    """Leave a student in `out`: model.safetensors, history.json, and DVCLive's metrics and plots.

    Without `teaching`, the folder of a teacher cache, the teacher runs whatever teach.cache says. `start` is the folder
    of cut_student; only a student that is cut from its teacher needs it.
    """
    settings = parameters.load(params)
    config = parameters.method_config(settings, method)
    card = cards.load(data)
    network, header = checkpoint.load(teacher)
    torch.manual_seed(seed)
    seen = card.model_copy(update={"image_px": settings.student.image_px or card.image_px})
    student, begun = _student(settings.student, seen, start)
    objective = find(method).Method(config, student, Teacher(network, header.normalization, card.image_px), seen)
    if settings.teach.cache and teaching is not None:
        recall.attach(objective, teaching, facts_of(settings, teacher, card, best_device()))
    views = settings.teach.views
    facts = {
        "method": {method: config.model_dump()},
        "student": settings.student.model_dump(exclude_none=True) | begun,
        "train": decisive(settings.distill.train),
        "augment": settings.augment.model_dump() | ({} if views is None else {"views": views}),
        "teacher_sha256": sha256(teacher),
    }
    train(
        objective,
        settings.distill.train,
        settings.augment,
        method,
        seed,
        data,
        facts,
        resume,
        out,
        views,
        image_px=seen.image_px,
    )


def _student(settings: Student, card: cards.DataCard, start: Path | None) -> tuple[Classifier, dict[str, str]]:
    """The network that training begins with, and the checksum of what it was cut to, if it was."""
    if settings.pruned is None or start is None:
        spec = spec_of(settings.arch, card.num_classes, card.image_px)
        return build_to_train(spec, settings.pretrained, "student"), {}
    weights, spec_file = start / "weights.safetensors", start / "spec.json"
    if weights.exists():
        return checkpoint.load(weights)[0], {"start_sha256": sha256(weights)}
    return build(json.loads(spec_file.read_text(encoding="utf-8"))), {"start_sha256": sha256(spec_file)}


if __name__ == "__main__":
    _run.main(distill)
