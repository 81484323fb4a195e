"""Choose anew, on this machine, which of a student's files ships."""

import argparse
from pathlib import Path

from serve import arguments as shared
from serve.timing import shipping

HELP = "choose the student's file that is fastest on this machine"
_DEFAULT = shipping.Wish()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `choose` takes."""
    add = parser.add_argument
    add(
        "folder",
        type=Path,
        metavar="DIR",
        help="with student.onnx and quantized/, as artifacts/deploy; deployed.onnx and deployed.json are written there",
    )
    add("--batch-size", type=shared.whole(1, 4096), default=_DEFAULT.batch_size, help="images in one call (default 1)")
    shared.add_threads(parser)
    shared.add_device(parser)
    add("--prefer", choices=["speed", "size"], default=_DEFAULT.prefer, help="what decides (default speed)")


def main(arguments: argparse.Namespace) -> None:
    """Measure, choose, write, and say what was chosen. Raises ServeError."""
    wish = shipping.Wish(arguments.prefer, arguments.batch_size, arguments.threads, arguments.device)
    print(shipping.told(shipping.ship(arguments.folder, wish)))
