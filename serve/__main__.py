"""python -m serve COMMAND ...: run, time, load and package exported models. Each file in commands/ is a command."""

import argparse
import sys

from serve.commands import benchmark, load, package, run
from serve.errors import ServeError

COMMANDS = {"run": run, "benchmark": benchmark, "load": load, "package": package}


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 on success, 1 after an error that was printed as one paragraph."""
    parser = argparse.ArgumentParser("python -m serve", description="Serve and time models exported by Pupil.")
    choices = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        of_command = choices.add_parser(name, help=command.HELP, description=command.HELP)
        command.add_arguments(of_command)
        of_command.set_defaults(main=command.main)
    arguments = parser.parse_args(argv)
    try:
        arguments.main(arguments)
    except ServeError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
