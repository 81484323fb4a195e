"""Look at everything that could stop a run, or that DVC cannot see, before anything long starts. Runs on every repro.

Checks params.yaml whole, with every method, source and network it names, tries every method on a blank copy of its
pair, and writes fingerprints that other stages depend on: of the machine (latency belongs to it), of the files behind
data.path, of teacher.weights, and of the code of both network families, which a stage picks by name; and what a teacher
cache has to keep for these methods.
"""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline import checkpoint
from pipeline import params as parameters
from pipeline.files import sha256, write_json
from pipeline.models.base import family
from pipeline.rehearsal import rehearse
from pipeline.teaching import recall
from serve import machine
from stages import _run


def preflight(params: Path, out: Path, schema: Path | None = None) -> None:
    """Check params.yaml and fingerprint what lies outside DVC's sight; with --schema, write its JSON schema too."""
    if schema is not None:
        write_json(schema, parameters.json_schema())
    settings = parameters.load(params)
    parameters.check_complete(settings)
    parameters.check_all(settings)
    needed = recall.needed(settings)
    rehearse(settings)
    for role, arch in (("teacher", settings.teacher.arch), ("student", settings.student.arch)):
        # A deployed student may be wrapped in `reused`, whatever its own family.
        code = {Path(module.__file__) for module in (family(arch), family("reused"))}
        packages = {f"package {name}": version(name) for name in getattr(family(arch), "PACKAGES", ())}
        write_json(out / f"{role}.json", {file.stem: sha256(file) for file in sorted(code)} | packages)
    write_json(out / "teaching.json", {"needed": needed})
    packages = {name: version(name) for name in ("torch", "onnxruntime-gpu", "numpy")}
    write_json(out / "machine.json", {**machine.describe(), "packages": packages})
    write_json(out / "source.json", _files_below(settings.data.path))
    weights = settings.teacher.weights
    write_json(out / "weights.json", {"sha256": weights and checkpoint.weights_sha256(weights)})


def _files_below(path: str | None) -> dict[str, Any]:
    """Names, sizes and modification times, as make looks at files: hashing a large data set would take minutes.

    A mere copy changes the times; prepare then runs again, writes the same bytes, and DVC stops there.
    """
    folder = Path(path) if path else None
    if folder is None or not folder.is_dir():
        return {"path": path, "files": None, "digest": None}
    listing = [
        (file.relative_to(folder).as_posix(), file.stat().st_size, file.stat().st_mtime_ns)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    ]
    digest = hashlib.sha256(json.dumps(listing).encode()).hexdigest()
    return {"path": path, "files": len(listing), "digest": digest}


if __name__ == "__main__":
    _run.main(preflight)
