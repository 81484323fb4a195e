"""The bearer tokens that a server asks for: the lines of a file, or one in the environment."""

import hashlib
import os
from pathlib import Path

from serve.errors import ServeError

VARIABLE = "PUPIL_TOKEN"

Digest = bytes
"""SHA-256 of a token. Looking one up among others takes no time that would tell how much of a token is right."""


def digest(token: bytes) -> Digest:
    """What is compared in place of the token."""
    return hashlib.sha256(token).digest()


def read(path: Path | None) -> frozenset[Digest]:
    """Of every token that is asked for; none lets everybody in.

    path  a file with one token in each line that is not empty; None takes the environment variable

    Raises ServeError for a file that cannot be read or has no token, and for a token that no client could send.
    """
    if path is None:
        given = os.environ.get(VARIABLE)
        tokens, source = [] if given is None else [given], VARIABLE
    else:
        source = str(path)
        try:
            tokens = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ServeError(f"The token file {path} cannot be read ({error}).") from error
        if not tokens:
            raise ServeError(f"The token file {path} is empty; write one token into each line.")
    for number, token in enumerate(tokens, 1):
        if not (token and token.isascii() and token.isprintable() and " " not in token):
            raise ServeError(f"Token {number} in {source} must be one word of visible ASCII characters; write another.")
    return frozenset(digest(token.encode("ascii")) for token in tokens)
