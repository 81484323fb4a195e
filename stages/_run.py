"""How a stage starts and fails: arguments from its signature, known errors as one paragraph without a traceback."""

import argparse
import inspect
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from pipeline.system import interruption
from pipeline.system.alone import alone_at
from pipeline.system.errors import PupilError, StoppedError

_TYPES = {str: str, int: int, float: float, float | None: float, Path: Path, Path | None: Path}


def main(stage: Callable[..., None], *errors: type[Exception]) -> None:
    """Call `stage` with its parameters read from argv: `teacher: Path` becomes `--teacher PATH`, `choose: bool`
    becomes `--choose`, and what stands before a `/` is given without a name.

    A PupilError, or one of `errors`, is printed as one paragraph and ends the process with status 1, as does the name
    of a file that the system keeps from the user; a stage that was asked to stop ends as a shell reports a signal, with
    128 and its number.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{stage.__name__}", description=inspect.getdoc(stage), allow_abbrev=False
    )
    unnamed = []
    for name, parameter in inspect.signature(stage, eval_str=True).parameters.items():
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            parser.add_argument(name, type=_TYPES[parameter.annotation])
            unnamed.append(name)
            continue
        flag = f"--{name.replace('_', '-')}"
        if parameter.annotation is bool:
            parser.add_argument(flag, action="store_true")
            continue
        required = parameter.default is inspect.Parameter.empty
        option: dict[str, Any] = {"required": True} if required else {"default": parameter.default}
        parser.add_argument(flag, type=_TYPES[parameter.annotation], **option)
    known: tuple[type[Exception], ...] = (PupilError, *errors)
    interruption.stop_with_parent()
    try:
        given = vars(parser.parse_args())
        with _alone(given.get("resume")):
            stage(*[given.pop(name) for name in unnamed], **given)
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(128 + stopped.signal)
    except known as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except PermissionError as error:
        if error.filename is None:
            raise
        print(
            f"error: {error.filename}: {error.strerror}. Give this user access, or name another path.", file=sys.stderr
        )
        sys.exit(1)


def _alone(resume: Path | None) -> AbstractContextManager[None]:
    """Two processes with one state would take turns at writing it, and what they make; those of one training share it.

    The others of a training that torchrun started wait where all of them meet.
    """
    return nullcontext() if resume is None or os.environ.get("RANK", "0") != "0" else alone_at(resume)
