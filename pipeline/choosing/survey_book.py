"""What a survey has measured so far, as a JSON file that the next start goes on from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.choosing.budget import Budget, Row
from pipeline.system.errors import PupilError
from pipeline.system.files import write_json


class Book:
    """Rows by name, written whole to a file each time.

    Args:
        path: the file; what it holds is kept where its `key` is the same.
        key: plain data of all that measurements depend on: teacher, images, machine, versions.

    Attributes:
        teacher: its row, None before it is measured.
        rows: of candidates, in the order in which they were measured.
        left_out: name -> why a candidate was not measured, of this start.
        changed: keys in which the file differed, so that what it held is not kept.

    Raises PupilError where the file is there, but is no survey.
    """

    def __init__(self, path: Path, key: Mapping[str, Any], budget: Budget) -> None:
        self._path, self._key, self._budget = path, json.loads(json.dumps(key)), budget
        self.teacher: Row | None = None
        self.rows: dict[str, Row] = {}
        self.left_out: dict[str, str] = {}
        self.changed: list[str] = []
        if path.exists():
            self._read()

    def _read(self) -> None:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            key, teacher, rows = found["measured_with"], found["teacher"], found["candidates"]
            # What failed is tried again. What fits is a matter of the budget, which may be another one now.
            measured = [row for row in rows if row["error"] is None]
            known = {row["name"]: {name: value for name, value in row.items() if name != "fits"} for row in measured}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise PupilError(
                f"{self._path} is not what a survey wrote ({type(error).__name__}: {error}). Remove it, or name "
                "another folder by --out."
            ) from error
        self.changed = [name for name in sorted({*key, *self._key}) if key.get(name) != self._key.get(name)]
        if not self.changed:
            self.teacher, self.rows = teacher, known

    def again(self) -> str | None:
        """What became of what the file held, for a person; None where there was nothing."""
        if self.changed:
            return f"{self._path} was measured with another {', '.join(self.changed)}: everything is measured anew"
        return f"{self._path} holds {len(self.rows)} candidates, which are not measured again" if self.rows else None

    def write(self) -> None:
        """Write all of it, with the budget and what fits, which are of this start."""
        fits = {name: self._budget.fits(row) for name, row in self.rows.items()}
        write_json(
            self._path,
            {
                "measured_with": self._key,
                "budget": self._budget.bounds(),
                "teacher": self.teacher,
                "candidates": [{**row, "fits": fits[name]} for name, row in self.rows.items()],
                "left_out": self.left_out,
            },
        )
