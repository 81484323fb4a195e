"""Look at everything that could stop a run, or that DVC cannot see, before anything long starts. Runs on every repro.

Checks params.yaml whole, with every method, source and network it names, tries every method on a blank copy of its
pair, and writes fingerprints that other stages depend on: of the machine (latency belongs to it), of the files behind
data.path and data.unlabelled, of teacher.weights, and of the code of both network families, which a stage picks by
name; and what a teacher cache has to keep for these methods. Students in the folder `students` beside its output that
params.yaml does not list are moved out of the way.
"""

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.models.base import family
from pipeline.preparation import unlabelled
from pipeline.settings import params as parameters
from pipeline.settings.data import Data
from pipeline.sweep import readiness
from pipeline.sweep.rehearsal import rehearse
from pipeline.system import registry
from pipeline.system.errors import DataError
from pipeline.system.files import sha256, write_json
from pipeline.teaching import recall
from pipeline.weights import foreign_weights, weight_files
from serve import machine
from stages import _run


def preflight(params: Path, out: Path) -> None:
    """Check params.yaml and fingerprint what lies outside DVC's sight."""
    settings = parameters.load(params)
    parameters.check_complete(settings)
    parameters.check_all(settings)
    needed = recall.needed(settings)
    rehearse(settings)
    readiness.fetch(settings, out.parent)
    for role, arch in (("teacher", settings.teacher.arch), ("student", settings.student.arch)):
        # A pruned student is of its teacher's family, and any deployed one may be wrapped in `reused`.
        families = [family(arch), family(settings.teacher.arch if arch == "pruned" else arch)]
        code = {Path(module.__file__) for module in (*families, family("reused"))}
        packages = {f"package {name}": version(name) for one in families for name in getattr(one, "PACKAGES", ())}
        write_json(out / f"{role}.json", {file.stem: sha256(file) for file in sorted(code)} | packages)
    write_json(out / "teaching.json", {"needed": needed})
    packages = machine.versions("torch", "onnxruntime", "numpy")
    write_json(out / "machine.json", {**machine.describe(), "packages": packages})
    write_json(out / "source.json", _source(settings.data, out / "source.json"))
    weights = settings.teacher.weights
    write_json(out / "weights.json", {"sha256": weights and weight_files.sha256(Path(weights))})
    if weights is not None:
        # How many classes the data have is known after prepare; any other misfit is said here.
        classes = None if settings.teacher.head is None else 2
        foreign_weights.fit(Path(weights), settings.teacher.arch, classes, settings.data.image_px)
    readiness.set_aside(out.parent / "students", settings.distill)
    readiness.say_what_is_never_reached(settings)


def _source(data: Data, earlier: Path) -> dict[str, Any]:
    """What the source reads below data.path; where that folder is gone, what was there when `earlier` was written.

    Later stages read what prepare has made, never the images, so that these may go. Only prepare itself can then not
    run again: a change of `data` asks for them. A path that never led anywhere is refused here, because DVC removes
    what was prepared before it runs prepare.
    """
    source = registry.find("pipeline.sources", data.source, "data.source")
    known: dict[str, Any] = json.loads(earlier.read_text(encoding="utf-8")) if earlier.is_file() else {}
    config, folder = parameters.source_config(data), data.unlabelled
    found = _fingerprint("data.path", data.path, lambda: source.fingerprint(config, data), known)
    if folder is not None:
        earlier_one = known.get("unlabelled", {})
        found["unlabelled"] = _fingerprint(unlabelled.KEY, folder, lambda: unlabelled.fingerprint(folder), earlier_one)
    return found


def _fingerprint(
    key: str, path: str | None, look: Callable[[], tuple[int, str] | None], known: dict[str, Any]
) -> dict[str, Any]:
    try:
        files, digest = look() or (None, None)
    except DataError:
        if known.get("digest") is None or known["path"] != path or Path(str(path)).exists():
            raise
        print(
            f"note: {key} {path} is gone. What was prepared from it stays in use; to prepare it again, bring it back."
        )
        files, digest = known["files"], known["digest"]
    return {"path": path, "files": files, "digest": digest}


if __name__ == "__main__":
    _run.main(preflight)
