"""Files that a command writes, whole or not at all."""

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write aside, then rename. Raises OSError.

    Only files are replaced: a device or a pipe is written to as it is, and a link leads to the same file as before.
    """
    if path.exists() and not path.is_file():  # a folder refuses by itself
        path.write_text(text, encoding="utf-8")
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
