"""What tells one run from another: a digest of all that decides its result."""

import hashlib
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any


def run_key(facts: dict[str, Any], *packages: str) -> str:
    """Digest of what decides a run's result: `facts`, the code loaded (pipeline/ and stages/), versions of `packages`.

    And of the packages that this code names as PACKAGES: those that a family of networks comes from.
    """
    root = Path(__file__).parents[2]
    own = loaded(root)
    needed = {*packages, *(name for module in own.values() for name in getattr(module, "PACKAGES", ()))}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    digest.update(json.dumps({name: version(name) for name in sorted(needed)}).encode())
    for path in sorted(own):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def loaded(root: Path) -> dict[Path, ModuleType]:
    """The project's own modules among those imported so far, by file; the chosen method and networks are among them."""
    files = ((getattr(module, "__file__", None), module) for module in list(sys.modules.values()))
    own = (f"{root / 'pipeline'}{os.sep}", f"{root / 'stages'}{os.sep}")
    return {Path(file): module for file, module in files if file and file.startswith(own)}
