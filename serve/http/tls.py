"""TLS by a certificate and its key, for links where no proxy does it."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from serve.errors import ServeError

HANDSHAKE_S = 10.0
"""As long as a header may take; the event loop's own limit is six times that, and no other clock looks at it."""


@dataclass(frozen=True)
class Files:
    """Where a server's certificate lies, with those that vouch for it behind it, and its key; both in PEM."""

    certificate: Path
    key: Path


def context(files: Files) -> ssl.SSLContext:
    """What a listening socket needs, for TLS 1.2 and newer. Raises ServeError."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load(made, files)
    return made


def load(into: ssl.SSLContext, files: Files) -> None:
    """Take the files as they are now, for new connections. Raises ServeError, and leaves the context as it was."""
    try:
        for each in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), into):  # tried apart first
            each.load_cert_chain(files.certificate, files.key, password=_no_password)
    except (OSError, ValueError) as error:
        raise ServeError(
            f"The certificate {files.certificate} and the key {files.key} cannot be used ({error}). Expected a "
            "certificate in PEM and its key, without a password."
        ) from error


def factory(made: ssl.SSLContext | None) -> Callable[[object, object], ssl.SSLContext] | None:
    """A context in the form in which uvicorn takes one."""
    return None if made is None else lambda config, default: made


def _no_password() -> str:
    raise ValueError("the key is encrypted")  # instead of a question at a terminal


class Loop(uvloop.Loop):
    """uvloop's event loop, whose servers wait no longer than HANDSHAKE_S for a handshake."""

    async def create_server(self, *args: Any, **kwargs: Any) -> Any:
        """As uvloop's; with TLS."""
        return await super().create_server(*args, ssl_handshake_timeout=HANDSHAKE_S, **kwargs)
