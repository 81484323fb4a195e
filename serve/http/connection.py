"""One connection of a client, held to the limits that an ASGI application cannot see.

uvicorn's protocol over httptools bounds neither the size of a header nor the time a client takes to send a request or
to read its answer. Here every phase has a clock, and every refusal is one JSON sentence:

    header   until the last line of it has come          408, or silence if nothing came
    body     until its last byte, answered or not        408, or the end of the connection
    idle     between two requests                        the end of the connection
    answer   while the client does not read it           the end of the connection
"""

import asyncio
from functools import partial
from http import HTTPStatus
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serve.http import protocol
from serve.http.limits import Limits
from serve.http.metrics import Metrics

_BODY_HEADERS = (b"content-length", b"transfer-encoding")
_SPARE_CONNECTIONS = 64
_REFUSED_HEADER_TIMEOUT_S = 1.0


def factory(limits: Limits, metrics: Metrics) -> type[asyncio.Protocol]:
    """What uvicorn's Config takes as `http`."""
    return cast(type[asyncio.Protocol], partial(Connection, limits, metrics))


class Connection(HttpToolsProtocol):
    """uvicorn's connection with clocks and bounds."""

    def __init__(self, limits: Limits, metrics: Metrics, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limits = limits
        self.metrics = metrics
        self._in_header = True
        self._in_body = False
        self._header_bytes = 0  # of a header that is not complete
        self._ends_request = False  # is the end of a request in the bytes that just came
        self._is_surplus = False
        self._is_draining = False
        self._clock: asyncio.TimerHandle | None = None  # of what the client sends
        self._write_clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, or end at once where there are far too many already."""
        super().connection_made(transport)
        surplus = len(self.connections) - self.limits.max_connections
        if surplus > _SPARE_CONNECTIONS:
            self.metrics.errors.labels("connections").inc()
            transport.abort()
            return
        # A few more than allowed are heard out, so that they get a sentence and not a reset.
        self._is_surplus = surplus > 0
        timeout_s = self.limits.header_timeout_s
        self._start_clock(min(timeout_s, _REFUSED_HEADER_TIMEOUT_S) if self._is_surplus else timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks."""
        self._stop_clock()
        if self._write_clock is not None:
            self._write_clock.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, in time and in bounds."""
        if self.transport.is_closing():
            return  # refused already
        self._unset_keepalive_if_required()
        self._ends_request = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # answered as if it were no upgrade, and closed then
        except httptools.HttpParserError as error:
            if not self.transport.is_closing():
                self._refuse(400, f"This is no HTTP/1.1 request: {error}.", "http_400")
            return
        if self._in_header and not self.transport.is_closing():
            if not self._ends_request:
                self._header_bytes += len(data)  # the parser calls nobody until a line of a header is complete
            if self._header_bytes > self.limits.max_header_bytes:
                self._refuse_header()
            elif self._clock is None and (self.cycle is None or self.cycle.response_complete):
                self._start_clock(self.limits.header_timeout_s)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._header_bytes = 0
        self.scope["pupil.is_left"] = self.transport.is_closing  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        """Hand the request to the application, unless it is refused."""
        self._in_header, self._in_body = False, True
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.limits.max_header_bytes:
            self._refuse_header()
            raise _Refused
        if self._is_surplus:
            self._refuse(
                503,
                f"{self.limits.max_connections} connections are open, as many as may; try again later.",
                "overloaded",
            )
            raise _Refused
        if self.parser.should_upgrade() and any(name in _BODY_HEADERS for name, _ in self.headers):
            # The parser takes what follows for the other protocol. Java's HttpClient asks for HTTP/2 in this way.
            self._refuse(
                400, "No other protocol is offered here; send the body without the header Upgrade.", "http_400"
            )
            raise _Refused
        self._start_clock(self.limits.body_timeout_s)
        super().on_headers_complete()
        # The parser reads no second request after an upgrade, and a server that drains wants none.
        if self.parser.should_upgrade() or self._is_draining:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        self._in_header, self._in_body = True, False
        self._header_bytes = 0
        self._ends_request = True
        self._stop_clock()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The last byte of an answer was handed to the transport."""
        super().on_response_complete()
        if self.transport.is_closing() and self.transport.get_write_buffer_size() > 0:
            self._start_write_clock()

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered."""
        self._start_write_clock()
        super().pause_writing()

    def resume_writing(self) -> None:
        """It does again; but what is left when the connection ends keeps its clock."""
        if self._write_clock is not None and not self.transport.is_closing():
            self._write_clock.cancel()
            self._write_clock = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, even one whose last answer nobody reads."""
        if self.transport.get_write_buffer_size() > 0:
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def drain(self) -> None:
        """Close after the next answer, the one under way or another."""
        self._is_draining = True
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in the words of the protocol."""
        self._refuse(400, msg, "http_400")

    def _start_clock(self, seconds: float) -> None:
        self._stop_clock()
        self._clock = self.loop.call_later(seconds, self._too_slow)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _start_write_clock(self) -> None:
        if self._write_clock is None:
            self._write_clock = self.loop.call_later(self.limits.write_timeout_s, self.transport.abort)

    def _too_slow(self) -> None:
        self._clock = None
        is_answered = self.cycle is None or self.cycle.response_started
        if self._in_body and is_answered:
            self.transport.abort()  # a client that goes on sending although it has its answer
        elif self._in_body or self._header_bytes > 0:
            phase = "body" if self._in_body else "header"
            limit_s = self.limits.body_timeout_s if self._in_body else self.limits.header_timeout_s
            self._refuse(408, f"The {phase} of the request took longer than {limit_s:g} s to arrive.", "http_408")
        else:
            self.transport.close()  # it never said a word

    def _refuse_header(self) -> None:
        self._refuse(431, f"The header is larger than the limit of {self.limits.max_header_bytes} bytes.", "http_431")

    def _refuse(self, status: int, message: str, reason: str) -> None:
        """Answer in the application's stead and close; what the application may still say goes nowhere."""
        self.metrics.errors.labels(reason).inc()
        self._stop_clock()
        body = protocol.write({"error": message})
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "connection: close",
            *(["retry-after: 1"] if status == 503 else []),
        ]
        self.transport.write("\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + body)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
        if self.transport.get_write_buffer_size() > 0:
            self._start_write_clock()


class _Refused(Exception):
    """Stops the parser; the refusal is written already."""
