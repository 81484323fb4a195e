"""Write what others need to run exported models: a folder with a model card, a Triton repository, a KServe manifest."""

import argparse
from pathlib import Path

from serve import arguments as shared
from serve.errors import ServeError
from serve.package import hub, kserve, triton

HELP = "package exported models for others, for Triton and for KServe"
_DEFAULT = triton.Serving()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `package` takes."""
    shared.add_models(parser)
    add = parser.add_argument
    add(
        "--hub",
        type=Path,
        metavar="DIR",
        help="write the models, their labels and a model card with a program that runs them to this new folder",
    )
    add("--licence", metavar="ID", help="of the weights, for the model card, as the Hub names it (apache-2.0, ...)")
    add("--latency", type=Path, metavar="FILE", help="JSON of a benchmark of these files, for the model card")
    add(
        "--triton",
        type=Path,
        metavar="DIR",
        help="write a Triton model repository to this folder, which must be new or empty",
    )
    add(
        "--kserve",
        type=Path,
        metavar="FILE",
        help="write a KServe InferenceService that runs the repository to this file",
    )
    add("--storage-uri", metavar="URI", help="where KServe finds the repository, such as s3://bucket/models")
    add("--name", default="pupil", help="name of the InferenceService (default pupil)")
    add(
        "--replicas",
        type=shared.whole(0, 100_000),
        nargs=2,
        default=[1, 4],
        metavar=("MIN", "MAX"),
        help="fewest and most replicas (default 1 4)",
    )
    add("--max-batch", type=shared.whole(1, 4096), default=_DEFAULT.max_batch, help="images in a batch (default 32)")
    add(
        "--max-delay-us",
        type=shared.whole(1, 60_000_000),
        default=_DEFAULT.max_delay_us,
        help="microseconds at most that a request waits to be batched with others (default 1000)",
    )
    add(
        "--max-queue",
        type=shared.whole(1, 1_000_000),
        default=_DEFAULT.max_queue,
        help="requests that may wait (default 512)",
    )
    add("--instances", type=shared.whole(1, 1024), default=_DEFAULT.instances, help="copies of each model (default 1)")
    add("--gpu", action="store_true", help="run the copies on a GPU")


def main(arguments: argparse.Namespace) -> None:
    """Write what was asked for. Raises ServeError."""
    if arguments.hub is None and arguments.triton is None and arguments.kserve is None:
        raise ServeError("Nothing to write: give --hub DIR, --triton DIR, --kserve FILE or several of them.")
    if arguments.hub is None and (arguments.licence or arguments.latency):
        raise ServeError("--licence and --latency are for the model card: give --hub DIR too.")
    if arguments.kserve is not None and arguments.storage_uri is None:
        raise ServeError(
            "--kserve needs --storage-uri, which says where the cluster finds the Triton model repository."
        )
    serving = triton.Serving(
        arguments.max_batch,
        arguments.max_delay_us,
        arguments.max_queue,
        arguments.instances,
        arguments.threads,
        arguments.gpu,
    )
    models = triton.read_cards(arguments.models)
    names = ", ".join(card.name for card in models.values())
    service = kserve.Service(arguments.name, arguments.storage_uri or "", *arguments.replicas)
    if arguments.kserve is not None:
        kserve.manifest(service, serving)  # what is wrong with it is said before anything is written
    if arguments.hub is not None:
        hub.write(arguments.hub, models, arguments.licence, arguments.latency)
        print(f"{arguments.hub} holds {names} and README.md; it can be handed on as it is.")
    if arguments.triton is not None:
        triton.write(arguments.triton, models, serving)
        print(f"{arguments.triton} holds {names}; run: tritonserver --model-repository={arguments.triton}")
    if arguments.kserve is not None:
        kserve.write(arguments.kserve, service, serving)
        print(f"{arguments.kserve} runs what lies at {service.storage_uri}; run: kubectl apply -f {arguments.kserve}")
