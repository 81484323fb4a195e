"""A connection of a load generator: HTTP as bytes go over the wire, and no more of it than needed."""

import asyncio
import time
from collections.abc import Callable
from typing import cast

import httptools

from serve.load.target import HEADER_LENGTH


class Connection(asyncio.Protocol):
    """One connection that is kept open, with one request on it at a time.

    on_answer  called with the connection, the HTTP status, the body and the length of its JSON header, if it is binary
    on_loss    called when the connection is gone, or when something other than HTTP came over it

    arrival    what the request on it belongs to; -1: it is idle
    is_kept    False once the server has said that it will close it
    """

    def __init__(
        self,
        on_answer: "Callable[[Connection, int, bytes, int | None], None]",
        on_loss: "Callable[[Connection], None]",
    ) -> None:
        self._on_answer, self._on_loss = on_answer, on_loss
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._header_length: int | None = None
        self._is_complete = False
        self.arrival, self.is_kept, self.idle_since_ns = -1, True, time.monotonic_ns()

    def send(self, request: bytes, arrival: int) -> None:
        """Send a request on behalf of an arrival. The connection must be open and idle."""
        assert self._transport is not None
        self.arrival = arrival
        self._transport.write(request)

    def close(self) -> None:
        """Close at once; what is on its way is lost. `on_loss` is not called any more."""
        self._on_loss = _nothing
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its base class

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio.Protocol."""
        self._on_loss(self)

    def data_received(self, data: bytes) -> None:
        """Of asyncio.Protocol."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._on_loss(self)
            self.close()
            return
        if self._is_complete:
            # Not within the parser's callback, where an error would pass for one of the parser.
            body, header_length = b"".join(self._parts), self._header_length
            self._parts, self._header_length, self._is_complete = [], None, False
            self._on_answer(self, self._parser.get_status_code(), body, header_length)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of httptools' parser."""
        if name.lower() == HEADER_LENGTH.encode():
            self._header_length = int(value)

    def on_body(self, body: bytes) -> None:
        """Of httptools' parser."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """Of httptools' parser."""
        self._is_complete, self.is_kept = True, self._parser.should_keep_alive()


def _nothing(connection: Connection) -> None:
    """Nobody wants to know any more."""
