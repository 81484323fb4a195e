"""How a stage starts and fails: arguments from its signature, known errors as one paragraph without a traceback."""

import argparse
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.errors import PupilError

_TYPES = {str: str, int: int, Path: Path, Path | None: Path}


def main(stage: Callable[..., None]) -> None:
    """Call `stage` with its parameters read from argv: `teacher: Path` becomes `--teacher PATH`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{stage.__name__}", description=inspect.getdoc(stage), allow_abbrev=False
    )
    for name, parameter in inspect.signature(stage, eval_str=True).parameters.items():
        required = parameter.default is inspect.Parameter.empty
        option: dict[str, Any] = {"required": True} if required else {"default": parameter.default}
        parser.add_argument(f"--{name.replace('_', '-')}", type=_TYPES[parameter.annotation], **option)
    try:
        stage(**vars(parser.parse_args()))
    except PupilError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
