"""python -m serve COMMAND ...: run, time, choose, load and package exported models, by the files of commands/."""

import argparse
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from serve.commands import benchmark, choose, load, package, run
from serve.errors import ServeError

COMMANDS = {"run": run, "benchmark": benchmark, "choose": choose, "load": load, "package": package}


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 on success, 1 after an error that was printed as one paragraph, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser("python -m serve", description="Serve and time models exported by Pupil.")
    choices = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        of_command = choices.add_parser(name, help=command.HELP, description=command.HELP)
        command.add_arguments(of_command)
        of_command.set_defaults(main=command.main)
    arguments = parser.parse_args(argv)
    try:
        with _printing():
            arguments.main(arguments)
    except ServeError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


@contextmanager
def _printing() -> Iterator[None]:
    """Raise ServeError where standard output takes no more: a full disk, or a pipe that nobody reads."""
    try:
        yield
        if sys.stdout is not None:  # it was closed from the start
            sys.stdout.flush()
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EIO):
            raise  # of something else: no file is named where a descriptor refuses
        # What is still held back would fail once more as the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ServeError(f"Standard output takes no more ({error.strerror}).") from error


if __name__ == "__main__":
    sys.exit(main())
