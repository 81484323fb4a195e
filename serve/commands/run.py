"""Serve models over HTTP until interrupted."""

import argparse
import socket
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from serve import arguments as shared
from serve.errors import ServeError
from serve.http import server, tls, tokens, workers
from serve.http.batching import Batching
from serve.http.limits import MEBIBYTE, Limits

HELP = "serve exported models over HTTP"
_BATCHING, _LIMITS = Batching(), Limits()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `run` takes."""
    shared.add_models(parser)
    shared.add_device(parser)
    add = parser.add_argument
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default 127.0.0.1, which only this machine can reach)",
    )
    add(
        "--port",
        type=shared.whole(0, 2**16 - 1),
        default=8000,
        help="port to listen on; 0 takes a free one (default 8000)",
    )
    add("--workers", type=shared.whole(1, 1024), default=1, help="processes that share the port (default 1)")
    add(
        "--parallel",
        type=shared.whole(1, 1024),
        default=_BATCHING.num_threads,
        help=_default("batches that are computed at once"),
    )
    add("--max-batch", type=shared.whole(1, 4096), default=_BATCHING.max_batch, help=_default("images in a batch"))
    add(
        "--max-delay-ms",
        type=shared.number(0, 60_000),
        default=_BATCHING.max_delay_ms,
        help=_default("milliseconds at most that a request waits to be batched with others while a batch is computed"),
    )
    add(
        "--max-queue",
        type=shared.whole(1, 1_000_000),
        default=_BATCHING.max_queue,
        help=_default("images that may wait"),
    )
    add(
        "--deadline-ms",
        type=shared.number(0.1, 1000 * shared.DAY_S),
        default=_BATCHING.deadline_ms,
        help=_default("milliseconds after which a request is answered with 503"),
    )
    add(
        "--max-connections",
        type=shared.whole(1, 1_000_000),
        default=_LIMITS.max_connections,
        help=_default("connections open at once"),
    )
    add(
        "--max-body-mib",
        type=shared.whole(1, 1024),
        default=_LIMITS.max_body_bytes // MEBIBYTE,
        help=_default("MiB in the body of one request"),
    )
    add(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="require one of the bearer tokens in this file, one in each line (or the one in the environment variable "
        f"{tokens.VARIABLE})",
    )
    add(
        "--allow-origin",
        type=_origin,
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let the scripts of pages from this origin use the server, such as https://example.org; * stands for "
        "every origin; may be given several times (default: none)",
    )
    add("--tls-certificate", type=Path, metavar="FILE", help="serve HTTPS with this certificate, in PEM")
    add("--tls-key", type=Path, metavar="FILE", help="the key of the certificate, in PEM and without a password")
    add(
        "--samples",
        type=Path,
        metavar="DIR",
        help="show images of this prepared split, such as data/prepared/test, on the page",
    )
    add("--access-log", action="store_true", help="write a line of JSON to stderr for every request")


def main(arguments: argparse.Namespace) -> None:
    """Serve until interrupted. Raises ServeError for a bad model, token or certificate, and a port that is taken."""
    max_body_bytes = arguments.max_body_mib * MEBIBYTE
    settings = server.Settings(
        paths=tuple(arguments.models),
        threads=arguments.threads,
        limits=replace(
            _LIMITS,
            max_body_bytes=max_body_bytes,
            # A compressed body counts twice while it is unpacked; a server that works on no other must take it.
            max_pending_bytes=max(_LIMITS.max_pending_bytes, 2 * max_body_bytes),
            max_connections=arguments.max_connections,
        ),
        batching=replace(
            _BATCHING,
            max_batch=arguments.max_batch,
            max_delay_ms=arguments.max_delay_ms,
            max_queue=arguments.max_queue,
            deadline_ms=arguments.deadline_ms,
            num_threads=arguments.parallel,
        ),
        tokens=tokens.read(arguments.token_file),
        token_file=arguments.token_file,
        origins=tuple(arguments.allow_origin),
        https=_tls_files(arguments.tls_certificate, arguments.tls_key),
        access_log=arguments.access_log,
        samples=arguments.samples,
        device=arguments.device,
    )
    host, port = arguments.host, arguments.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        dual = family == socket.AF_INET6 and socket.has_dualstack_ipv6()  # "::" then takes IPv4 too
        listener = socket.create_server((host, port), family=family, dualstack_ipv6=dual)
    except OSError as error:
        raise ServeError(
            f"Cannot listen on {host} port {port} ({error.strerror}); choose another --host or --port."
        ) from error
    url, others = address(listener, host, "http" if settings.https is None else "https")

    def ready(names: list[str]) -> None:
        if not settings.tokens and not server.is_loopback(listener):
            print(
                "Everybody who reaches this machine may use the server, which asks for no token; give it one "
                "(--token-file).",
                file=sys.stderr,
            )
        line = f"Serving {', '.join(names)} on {url}{others}; try: curl {url}/v2/models/{names[0]}"
        try:
            print(line, flush=True)
        except OSError:  # nobody reads it, or a disk is full, which is no reason not to serve
            print(line, file=sys.stderr)

    with listener:
        if arguments.workers == 1:
            server.serve(settings, listener, ready)
        else:
            workers.serve(settings, listener, arguments.workers, ready)


def address(listener: socket.socket, host: str, scheme: str = "http") -> tuple[str, str]:
    """Where this machine finds the server, and what else to say of where it listens."""
    bound, port = listener.getsockname()[:2]
    others = ""
    if bound == "0.0.0.0":
        host, others = "127.0.0.1", " and on this machine's other IPv4 addresses"
    elif bound == "::":
        is_alone = listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        host, others = "::1", f" and on this machine's other {'IPv6 ' if is_alone else ''}addresses"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}", others


def _tls_files(certificate: Path | None, key: Path | None) -> tls.Files | None:
    if (certificate is None) != (key is None):
        raise ServeError("--tls-certificate and --tls-key belong together; give both.")
    return None if certificate is None or key is None else tls.Files(certificate, key)


def _origin(text: str) -> str:
    parts = urlsplit(text)
    if text != "*" and (text != f"{parts.scheme}://{parts.netloc}" or not parts.scheme or not parts.netloc):
        raise argparse.ArgumentTypeError(f"must be such as https://example.org, without a path, or *, not {text:.80}")
    return text.lower()


def _default(text: str) -> str:
    return f"{text} (default %(default)s)"
