"""What an attacker sends to a server, as raw bytes over a socket, and how the answers are read."""

import socket
import time
from dataclasses import dataclass

CHUNKED = "Transfer-Encoding: chunked"


@dataclass(frozen=True)
class Endless:
    """Something that never ends: how it opens, and what comes again and again."""

    opening: bytes
    again: bytes
    line: str | None = None
    """Of the header, where it is a body that has no end."""

    def against(self, target: str, token: str | None = None) -> tuple[bytes, bytes]:
        """What `flood` sends; the header of a body asks for `target`."""
        header = b"" if self.line is None else head("POST", target, self.line, token=token)
        return header + self.opening, self.again


ENDLESS = {
    "request line": Endless(b"GET /", b"a" * 2**16),
    "header": Endless(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX: ", b"a" * 2**16),
    "headers": Endless(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n", b"a:\r\n" * 2**14),
    "folded header": Endless(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\na: b\r\n", b" c\r\n" * 2**14),
    "empty lines": Endless(b"", b"\r\n" * 2**15),
    "garbage": Endless(b"", bytes(range(256)) * 2**8),
    "TLS": Endless(b"\x16\x03\x01\x02\x00\x01", b"\0" * 2**16),
    "HTTP/2": Endless(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0" * 2**16),
    "trailers": Endless(b"0\r\n", b"a: b\r\n" * 2**14, CHUNKED),
    "trailer": Endless(b"0\r\na: ", b"b" * 2**16, CHUNKED),
    "size of a chunk": Endless(b"", b"0" * 2**16, CHUNKED),
    "extension of a chunk": Endless(b"1;", b"a" * 2**16, CHUNKED),
    "chunks of one byte": Endless(b"", b"1\r\n \r\n" * 2**14, CHUNKED),
    "chunks": Endless(b"", b"10000\r\n" + b" " * 2**16 + b"\r\n", CHUNKED),
    "body": Endless(b"", b" " * 2**16, f"Content-Length: {2**40}"),
    "body to be continued": Endless(b"", b" " * 2**16, f"Content-Length: {2**24 - 1}\r\nExpect: 100-continue"),
}


def head(method: str, target: str, *lines: str, token: str | None = None) -> bytes:
    """The header of a request."""
    given = [] if token is None else [f"Authorization: Bearer {token}"]
    return (
        "\r\n".join([f"{method} {target} HTTP/1.1", "Host: localhost", *given, *lines]).encode("latin-1") + b"\r\n\r\n"
    )


def connect(port: int) -> socket.socket:
    """A connection to the server on this machine."""
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def answers(client: socket.socket) -> list[tuple[int, bytes]]:
    """Status and body of all that comes until the connection ends, interim answers left out."""
    came = []
    with client.makefile("rb") as file:
        while line := file.readline():
            status, size = int(line.split()[1]), 0
            while (header := file.readline()) not in (b"\r\n", b""):
                name, _, value = header.partition(b":")
                if name.lower() == b"content-length":
                    size = int(value)
            if status != 100:
                came.append((status, file.read(size)))
    return came


def flood(client: socket.socket, opening: bytes, again: bytes, num_bytes: int = 2**25) -> None:
    """Send on and on, until the server ends the connection or has read nothing for a while."""
    client.settimeout(0.3)
    try:
        client.sendall(opening)
        for _ in range(num_bytes // len(again)):
            client.sendall(again)
    except OSError:
        pass


def probe(port: int) -> float:
    """Seconds that a health probe took; infinite where it failed."""
    started = time.perf_counter()
    try:
        with connect(port) as client:
            client.sendall(head("GET", "/v2/health/live", "Connection: close"))
            ((status, _),) = answers(client)
    except (OSError, ValueError):
        return float("inf")
    return time.perf_counter() - started if status == 200 else float("inf")
