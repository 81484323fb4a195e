"""Serve models over HTTP until interrupted."""

import argparse
import contextlib
import socket
from pathlib import Path

import uvicorn

from serve import arguments as shared
from serve.app import create_app
from serve.errors import ServeError
from serve.model import OnnxClassifier

HELP = "serve exported models over HTTP"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `run` takes."""
    shared.add_models(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=shared.port, default=8000, help="0 takes a free one (default 8000)")


def main(arguments: argparse.Namespace) -> None:
    """Serve until interrupted. Raises ServeError for a bad model or a port that is taken."""
    models = _load(arguments.models, arguments.threads)
    host, port = arguments.host, arguments.port
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


def _load(paths: list[Path], threads: int) -> dict[str, OnnxClassifier]:
    """The models by the names on their cards."""
    models: dict[str, OnnxClassifier] = {}
    for path in paths:
        model = OnnxClassifier(path, threads)
        if model.card.name in models:
            raise ServeError(
                f"{path} is named {model.card.name!r} like a model before it; serve one of them at a time."
            )
        models[model.card.name] = model
    return models
