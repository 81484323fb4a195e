"""What an interrupted training needs to go on: everything that changed since it began, keyed by what it is.

The key is a digest of parameters, data, teacher, code and versions. A state with another key belongs to another run: it
is named, never loaded, and put beside the first state that this run saves, under its key. There its own run finds it
again, such as after an edit that was taken back. One is kept so, the last. The file is one safetensors file, written
aside and renamed, so a kill leaves the previous state or the new one. It lives outside DVC's outputs, which DVC deletes
before a rerun.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.models import checkpoint
from pipeline.system.errors import CheckpointError, PupilError


@dataclass
class Resume:
    """Where a run's state lies, and the key that makes it this run's."""

    path: Path
    key: str
    found: Path | None = field(default=None, init=False)
    """Where this run's state is: at `path`, or beside another run's; None before it is loaded or saved."""

    def save(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Replace the state by a new one; `facts` is plain data."""
        if self.found != self.path:
            self._keep_another()
        checkpoint.write_tensors(self.path, tensors, {"key": self.key, **facts})
        if self.found != self.path:
            self._beside(self.key).unlink(missing_ok=True)
            self.found = self.path

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The state of this very run, or None; a torn or foreign file is said and not used.

        Raises PupilError for one that cannot be read, which may be whole all the same.
        """
        refused = []
        for path in (self.path, self._beside(self.key)):
            if not path.exists():
                continue
            try:
                tensors, facts = _read(path)
            except CheckpointError as error:
                refused.append(str(error))
                continue
            if facts is not None and facts.get("key") == self.key:
                self.found = path
                return tensors, facts
            refused.append(
                f"{path} belongs to a run with other parameters, data, code or versions. It is kept beside this run's."
            )
        if refused:
            print(f"not resuming, starting anew: {refused[0]}", file=sys.stderr)
        return None

    def clear(self) -> None:
        """Forget the state of a finished run, and no other's."""
        if self.found == self.path:
            self.path.unlink(missing_ok=True)
        self._beside(self.key).unlink(missing_ok=True)

    def _keep_another(self) -> None:
        """Put a state of another run out of the way; a torn one is of no use to anybody."""
        if not self.path.exists():
            return
        try:
            _, facts = _read(self.path)
        except CheckpointError:
            return
        other = "" if facts is None else facts.get("key", "")
        if other != self.key:
            for earlier in self.path.parent.glob(f"{self.path.stem}.{'[0-9a-f]' * 8}{self.path.suffix}"):
                if earlier != self._beside(self.key):
                    earlier.unlink()
            self.path.replace(self._beside(other))

    def _beside(self, key: str) -> Path:
        return self.path.with_name(f"{self.path.stem}.{key[:8] or 'other'}{self.path.suffix}")


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise PupilError(
            f"{path}, from which a training may go on, cannot be read ({error.strerror}). Make it readable and run "
            "again, or remove it to start anew."
        ) from error
    return checkpoint.read_tensors(path)
