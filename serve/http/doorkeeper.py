"""Who may come in, told from the header of a request alone: nothing of its body has been read.

503   the connection is one more than may be open; health is answered all the same
421   the name in Host is not one of this machine, though the server listens to this machine alone
403   a page of another origin sends the request; or the server is to change, though it asks nobody for a token
401   the bearer token is missing or wrong; health and the demo page want none
"""

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass

from starlette.types import Scope

from serve.http import connection, repository
from serve.http import page as demo
from serve.http.limits import Limits
from serve.http.tokens import Digest, digest

HEALTH_PATHS = ("/v2/health/live", "/v2/health/ready")
"""Asked by probes, which carry no token, when there is much to do most of all."""
OPEN_PATHS = (*HEALTH_PATHS, *demo.FILES)
"""Asked for by browsers before the page has asked for a token too; none tells of a model."""
_SAFE = ("GET", "HEAD", "OPTIONS")

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Refusal:
    """An answer in the application's stead."""

    status: int
    reason: str  # as it is counted
    message: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Doorkeeper:
    """Refuses requests.

    tokens          who does not send one of them, `Authorization: Bearer TOKEN`, is refused; none lets everybody in
    origins         of other pages that may send requests; "*" lets those of every origin do so
    is_local        Host must name this machine: a page may give its own name the address 127.0.0.1 ("rebinding"), and
                    would then be a page of this very server
    """

    def __init__(
        self, limits: Limits, tokens: frozenset[Digest], origins: Collection[str] = (), is_local: bool = False
    ) -> None:
        self.tokens = tokens
        self._limits = limits
        self._origins = origins
        self._is_local = is_local

    def refusal(self, scope: Scope) -> Refusal | None:
        """Why this request is refused; None if it is not."""
        headers: Headers = scope["headers"]
        path: str = scope["path"]
        if path in HEALTH_PATHS:
            return None
        client = connection.of(scope)
        if client is not None and client.is_surplus:
            message = f"{self._limits.max_connections} connections are open, as many as may; try again later."
            return Refusal(503, "overloaded", message, ((b"retry-after", b"1"), (b"connection", b"close")))
        host = _value(headers, b"host")
        if self._is_local and not _names_this_machine(host):
            return Refusal(
                421,
                "host",
                f"This server listens to its own machine alone, under the name localhost, not {host[:60]!r}. "
                "Give it a token (--token-file) if others are to reach it by name.",
            )
        if _is_from_elsewhere(scope["method"], headers, host) and not self._may_ask(_value(headers, b"origin")):
            return Refusal(
                403,
                "origin",
                "A page of another origin may not send this; open the page of this server, or name that origin at its "
                "start (--allow-origin).",
            )
        if not self.tokens and path.startswith(repository.CONTROL):
            message = "Models are loaded and unloaded only where the server asks for a token (--token-file)."
            return Refusal(403, "control", message)
        if self.tokens and path not in OPEN_PATHS and not _has_token(headers, self.tokens):
            message = "This server wants a bearer token: send 'Authorization: Bearer TOKEN'."
            return Refusal(401, "unauthorized", message, ((b"www-authenticate", b"Bearer"),))
        return None

    def _may_ask(self, origin: str) -> bool:
        return "*" in self._origins or origin in self._origins


def _has_token(headers: Headers, tokens: frozenset[Digest]) -> bool:
    given = [value for name, value in headers if name == b"authorization"]
    if len(given) != 1:
        return False
    scheme, _, credentials = given[0].partition(b" ")
    return scheme.lower() == b"bearer" and digest(credentials.strip(b" ")) in tokens


def _names_this_machine(host: str) -> bool:
    """Is a Host header localhost or an address? Neither can be made to mean another machine tomorrow."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    name = name.removeprefix("[").removesuffix("]").removesuffix(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_from_elsewhere(method: str, headers: Headers, host: str) -> bool:
    """Does a browser send this for a page of another origin? Programs send neither header.

    Sec-Fetch-Site says it in so many words, where the browser trusts the connection; elsewhere Origin, which stands in
    all that is not GET, must name the host that is asked. https://www.w3.org/TR/fetch-metadata/
    """
    if method in _SAFE:
        return False
    site = _value(headers, b"sec-fetch-site")
    if site:
        return site not in ("same-origin", "none")
    origin = _value(headers, b"origin")
    return origin != "" and origin.partition("://")[2].lower() != host.lower()


def _value(headers: Headers, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in headers if key == name), "")
