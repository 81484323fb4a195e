"""What a command measured, written where it was asked to."""

import json
from pathlib import Path

from serve.errors import ServeError


def write(path: Path, content: object) -> None:
    """Write JSON aside, then rename. Raises ServeError; what the command printed is complete by then."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.partial")
        aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise ServeError(f"{path} could not be written ({error.strerror}); what is shown above is complete.") from error
