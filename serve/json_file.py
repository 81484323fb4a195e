"""What a command measured, written where it was asked to."""

import json
from pathlib import Path

from serve import files
from serve.errors import ServeError


def write(path: Path, content: object) -> None:
    """Write JSON, whole or not at all. Raises ServeError; what the command printed is complete by then."""
    try:
        files.write_text(path, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise ServeError(f"{path} could not be written ({error.strerror}); what is shown above is complete.") from error
