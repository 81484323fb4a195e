"""What preflight does besides looking: it fetches what a training needs, clears what is in the way, and warns once."""

import shutil
import sys
from pathlib import Path

from pipeline.models import checkpoint
from pipeline.models.base import build_to_train
from pipeline.settings.networks import Distill
from pipeline.settings.params import Params
from pipeline.system.errors import PupilError
from pipeline.training.schedule import never_reached


def fetch(settings: Params, artifacts: Path) -> None:
    """Have the pretrained weights at hand that a training will start from, or say now that they cannot be had.

    Where a network of that architecture was trained already, nothing needs them any more, nor a way to get them.
    """
    for role, section, trained in (
        ("teacher", settings.teacher, "teacher/model.safetensors"),
        ("student", settings.student, "students/*/*/model.safetensors"),
    ):
        if section.pretrained and section.arch not in map(_arch, artifacts.glob(trained)):
            build_to_train({"arch": section.arch, "num_classes": 2}, True, role)


def _arch(weights: Path) -> str | None:
    """Of a trained network, as its spec and that of its body say; None of a file that is none."""
    try:
        spec = checkpoint.load(weights)[1].model
    except PupilError:
        return None
    while "body" in spec:
        spec = spec["body"]
    return str(spec["arch"])


def set_aside(students: Path, listed: Distill) -> None:
    """Move METHOD/SEED folders that params.yaml does not list from `students` to a folder beside it.

    Stages that compare students depend on the whole folder, as DVC cannot depend on what a list names. A student that
    is left over would be part of what they depend on, but is in no stage, so that no other machine could ever get it.
    """
    if students.is_symlink():  # to another disk perhaps, from which no folder can be renamed to beside the link
        students = students.resolve()
    wanted = {(method, str(seed)) for method in listed.methods for seed in listed.seeds}
    aside = students.with_name(f"{students.name}-not-listed")
    for folder in sorted(students.glob("*/*")):
        place = folder.parent.name, folder.name
        if folder.is_dir() and place not in wanted:
            target = aside.joinpath(*place)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                shutil.rmtree(target)
            folder.rename(target)
            print(f"note: params.yaml does not list {'/'.join(place)}; what lay in {folder} was moved to {target}.")
    for method in students.glob("*"):
        if method.name not in listed.methods and method.is_dir() and not any(method.iterdir()):
            method.rmdir()


def say_what_is_never_reached(settings: Params) -> None:
    """Once in a run, where each of many trainings would say the same."""
    for section, train in (("teacher.train", settings.teacher.train), ("distill.train", settings.distill.train)):
        if late := never_reached(train):
            print(
                f"warning: {section} has {train.epochs} epochs and never reaches these milestones: "
                f"{', '.join(f'{milestone:g}' for milestone in late)}. The learning rate does not drop there. Train "
                "longer, or move them: below 1, a milestone is a fraction of the epochs.",
                file=sys.stderr,
            )
