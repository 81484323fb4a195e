"""What tells one run from another: a digest of all that decides its result."""

import hashlib
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


def run_key(facts: dict[str, Any], *packages: str) -> str:
    """Digest of what decides a run's result: `facts`, the code loaded from this project, versions of `packages`."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    digest.update(json.dumps({name: version(name) for name in packages}).encode())
    for path in loaded_sources(root):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def loaded_sources(root: Path) -> list[Path]:
    """The project's own files among the modules imported so far, the chosen method and networks included."""
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    own = (f"{root / 'pipeline'}{os.sep}", f"{root / 'stages'}{os.sep}")
    return sorted({Path(file) for file in files if file and file.startswith(own)})
