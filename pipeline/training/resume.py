"""What an interrupted training needs to go on: everything that changed since it began, keyed by what it is.

The key is a digest of parameters, data, teacher, code and versions. A state with another key belongs to another run:
it is named and left alone, never loaded. The file is one safetensors file, written aside and renamed, so a kill leaves
the previous state or the new one. It lives outside DVC's outputs, which DVC deletes before a rerun.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.models import checkpoint
from pipeline.system.errors import CheckpointError


@dataclass(frozen=True)
class Resume:
    """Where a run's state lies, and the key that makes it this run's."""

    path: Path
    key: str

    def save(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Replace the state by a new one; `facts` is plain data."""
        checkpoint.write_tensors(self.path, tensors, {"key": self.key, **facts})

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The state of this very run, or None; a torn or foreign file is said and not used."""
        if not self.path.exists():
            return None
        try:
            tensors, facts = checkpoint.read_tensors(self.path)
        except CheckpointError as error:
            print(f"not resuming, starting anew: {error}", file=sys.stderr)
            return None
        if facts is None or facts.get("key") != self.key:
            print(
                f"not resuming, starting anew: {self.path} belongs to a run with other parameters, data, code or "
                "versions.",
                file=sys.stderr,
            )
            return None
        return tensors, facts

    def clear(self) -> None:
        """Forget the state of a finished run."""
        self.path.unlink(missing_ok=True)
