"""python -m serve run MODEL...        serve exported models over HTTP
python -m serve benchmark MODEL...  time exported models against each other
"""

import argparse
import contextlib
import dataclasses
import json
import socket
import sys
from pathlib import Path

import numpy
import onnxruntime  # type: ignore[import-untyped]
import uvicorn

from serve import benchmark, machine
from serve.app import create_app
from serve.errors import ServeError
from serve.model import OnnxClassifier


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 on success, 1 after an error that was printed as one paragraph."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "run":
            run(arguments.models, arguments.host, arguments.port, arguments.threads)
        else:
            sizes, samples = arguments.batch_sizes, arguments.samples
            run_benchmark(arguments.models, sizes, samples, arguments.threads, arguments.seed, arguments.json)
    except ServeError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def run(paths: list[Path], host: str, port: int, threads: int) -> None:
    """Serve until interrupted. Port 0 takes a free one. Raises ServeError for a bad model or a port that is taken."""
    models: dict[str, OnnxClassifier] = {}
    for path in paths:
        model = OnnxClassifier(path, threads)
        if model.card.name in models:
            raise ServeError(
                f"{path} is named {model.card.name!r} like a model before it; serve one of them at a time."
            )
        models[model.card.name] = model
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ServeError(f"Cannot listen on {host} port {port} ({error.strerror}); choose --host or --port.") from error
    url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    print(f"Serving {', '.join(models)} on {url}; try: curl {url}/v2/models/{next(iter(models))}", flush=True)
    server = uvicorn.Server(uvicorn.Config(create_app(models), log_level="warning", ws="none"))
    with listener, contextlib.suppress(KeyboardInterrupt):  # raised by uvicorn once it has shut down in order
        server.run(sockets=[listener])


def run_benchmark(
    paths: list[Path], batch_sizes: list[int], samples: int, threads: int, seed: int, out: Path | None
) -> None:
    """Print a table; with `out`, also write rows, machine and versions there as JSON."""
    loaded = [OnnxClassifier(path, threads) for path in paths]
    names = [model.card.name for model in loaded]
    if len(set(names)) < len(names):
        names = [f"{name}#{position}" for position, name in enumerate(names, 1)]
    models = dict(zip(names, loaded, strict=True))
    load, cores = machine.load_average(), machine.num_cores()
    if load > 0.5 * cores:
        print(f"Warning: load average {load:.1f} on {cores} cores; only the ratios can be trusted.", file=sys.stderr)
    rows = [row for batch_size in batch_sizes for row in benchmark.compare(models, batch_size, samples, seed)]
    print(benchmark.table(rows))
    if out is None:
        return
    report = {
        "models": {
            name: {"path": str(path), "card": dataclasses.asdict(model.card)}
            for (name, model), path in zip(models.items(), paths, strict=True)
        },
        "rows": [row.to_dict() for row in rows],
        "threads": threads,
        "seed": seed,
        "machine": machine.describe(),
        "load_average_before": load,
        "versions": {"onnxruntime": onnxruntime.__version__, "numpy": numpy.__version__},
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ServeError(f"{out} could not be written ({error.strerror}); the table above is complete.") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m serve", description="Serve and time models exported by Pupil.")
    commands = parser.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="an exported .onnx file")
    shared.add_argument("--threads", type=_positive, default=1, help="CPU threads of one call (default 1)")
    serving = commands.add_parser("run", parents=[shared], help="serve models over HTTP")
    serving.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    serving.add_argument("--port", type=_port, default=8000, help="0 takes a free one (default 8000)")
    timing = commands.add_parser("benchmark", parents=[shared], help="time models against each other")
    timing.add_argument("--batch-sizes", type=_positive, nargs="+", default=[1, 32], metavar="N", help="(default 1 32)")
    timing.add_argument("--samples", type=_positive, default=700, help="rounds; p99 needs 662 (default 700)")
    timing.add_argument("--seed", type=int, default=0, help="of pixels, order and intervals (default 0)")
    timing.add_argument("--json", type=Path, metavar="FILE", help="write everything there too")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**16:
        raise argparse.ArgumentTypeError(f"must be in 0..65535, not {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())
