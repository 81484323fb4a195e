"""Look at everything that could stop a run, or that DVC cannot see, before anything long starts. Runs on every repro.

Checks params.yaml whole, with every method, source and network it names, tries every method on a blank copy of its
pair, and writes fingerprints that other stages depend on: of the machine (latency belongs to it), of the files behind
data.path, of teacher.weights, and of the code of both network families, which a stage picks by name; and what a teacher
cache has to keep for these methods. Students in the folder `students` beside its output that params.yaml does not list
are moved out of the way.
"""

import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.models import checkpoint
from pipeline.models.base import build_to_train, family
from pipeline.preparation.tree import fingerprint
from pipeline.settings import params as parameters
from pipeline.settings.networks import Distill
from pipeline.sweep.rehearsal import rehearse
from pipeline.system.errors import PupilError
from pipeline.system.files import sha256, write_json
from pipeline.teaching import recall
from pipeline.training.schedule import never_reached
from serve import machine
from stages import _run


def preflight(params: Path, out: Path) -> None:
    """Check params.yaml and fingerprint what lies outside DVC's sight."""
    settings = parameters.load(params)
    parameters.check_complete(settings)
    parameters.check_all(settings)
    needed = recall.needed(settings)
    rehearse(settings)
    _fetch(settings, out.parent)
    _say_what_is_never_reached(settings)
    for role, arch in (("teacher", settings.teacher.arch), ("student", settings.student.arch)):
        # A deployed student may be wrapped in `reused`, whatever its own family.
        code = {Path(module.__file__) for module in (family(arch), family("reused"))}
        packages = {f"package {name}": version(name) for name in getattr(family(arch), "PACKAGES", ())}
        write_json(out / f"{role}.json", {file.stem: sha256(file) for file in sorted(code)} | packages)
    write_json(out / "teaching.json", {"needed": needed})
    packages = {name: version(name) for name in ("torch", "onnxruntime-gpu", "numpy")}
    write_json(out / "machine.json", {**machine.describe(), "packages": packages})
    write_json(out / "source.json", _source(settings.data.path, out / "source.json"))
    weights = settings.teacher.weights
    write_json(out / "weights.json", {"sha256": weights and checkpoint.weights_sha256(weights)})
    _set_aside(out.parent / "students", settings.distill)


def _fetch(settings: parameters.Params, artifacts: Path) -> None:
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


def _set_aside(students: Path, listed: Distill) -> None:
    """Move METHOD/SEED folders that params.yaml does not list from `students` to a folder beside it.

    Stages that compare students depend on the whole folder, as DVC cannot depend on what a list names. A student that
    is left over would be part of what they depend on, but is in no stage, so that no other machine could ever get it.
    """
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


def _say_what_is_never_reached(settings: parameters.Params) -> None:
    """Once in a run, where each of many trainings would say the same."""
    for section, train in (("teacher.train", settings.teacher.train), ("distill.train", settings.distill.train)):
        if late := never_reached(train):
            print(
                f"warning: {section} has {train.epochs} epochs and never reaches the milestone "
                f"{' and '.join(f'{milestone:g}' for milestone in late)}, so that the learning rate does not drop "
                "there. Train longer, or move it: below 1, a milestone is a fraction of the epochs.",
                file=sys.stderr,
            )


def _source(path: str | None, earlier: Path) -> dict[str, Any]:
    """What lies below data.path; where that folder is gone, what was there when `earlier` was written.

    Later stages read what prepare has made, never the images, so that these may go. Only prepare itself can then not
    run again: a change of `data` asks for them.
    """
    if path is not None and Path(path).is_dir():
        files, digest = fingerprint(Path(path))
        return {"path": path, "files": files, "digest": digest}
    known: dict[str, Any] = json.loads(earlier.read_text(encoding="utf-8")) if earlier.is_file() else {}
    if known.get("digest") is None or known["path"] != path:
        return {"path": path, "files": None, "digest": None}
    print(
        f"note: data.path {path} is gone. What was prepared from it stays in use; to prepare it again, bring it back."
    )
    return known


if __name__ == "__main__":
    _run.main(preflight)
