"""One connection of a client: uvicorn's protocol over h11, and what it leaves to others.

h11 reads on only after an answer, and holds no more than one incomplete piece of a request, so neither pipelining nor
endless headers and trailers cost memory. Added here: a sentence for every refusal, which arrives; answers to clients
that have closed their half of the connection; whether a client has left; and room for a new client where idle ones
have taken every place. The clocks are in clocks.py.
"""

import asyncio
import select
import sys
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any, cast

import h11
from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

from serve.http import protocol
from serve.http.limits import Limits
from serve.http.metrics import Metrics

SPARE_CONNECTIONS = 64
"""Beyond the limit; they are answered 503, but for health (doorkeeper.py)."""
MAX_CHUNKS = 8192
"""Of one body: h11 takes 5 us for each, however small, and clients send thousands of bytes in one."""
_PIECE = 2**16
"""Bytes of an answer that are written at once: over TLS, the transport does not count those of the first piece."""


def factory(limits: Limits, metrics: Metrics, on_surplus: Callable[[], None]) -> type[asyncio.Protocol]:
    """What uvicorn's Config takes as `http`; on_surplus is called for each connection beyond the limit."""
    return cast(type[asyncio.Protocol], partial(Connection, limits, metrics, on_surplus))


class Connection(H11Protocol):
    """uvicorn's connection over h11."""

    def __init__(
        self, limits: Limits, metrics: Metrics, on_surplus: Callable[[], None], *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _Parser(h11.SERVER, limits.max_header_bytes)
        self.limits = limits
        self.metrics = metrics
        self._on_surplus = on_surplus
        self.opened = 0.0  # by the clock of the event loop
        self.is_surplus = False  # one more than may be open
        self.is_refused = False
        self._is_half_closed = False

    @property
    def is_answering(self) -> bool:
        """Is a request with the application?"""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def is_unanswered(self) -> bool:
        """May an answer be written? A second one would be taken for that of another request."""
        return self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE)

    @property
    def is_between_requests(self) -> bool:
        """Is no request being answered, and none begun but for its header?"""
        return self.conn.their_state is h11.IDLE and not self.is_answering

    def is_left(self) -> bool:
        """Has the client gone, so that nothing need be done for it?"""
        return self.transport.is_closing() or (self._is_half_closed and _is_hung_up(self.transport))

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; where there are far too many, in the place of the oldest that has nothing under way."""
        super().connection_made(transport)
        self.opened = self.loop.time()
        self._for_cycles = cast(asyncio.Transport, _OfCycle(transport, self._close_for_cycle))
        self.is_surplus = len(self.connections) > self.limits.max_connections
        self.app_state = self.app_state | {"connection": self}  # of which every request has a copy in its scope
        if self.is_surplus:
            self._on_surplus()
        if len(self.connections) > self.limits.max_connections + SPARE_CONNECTIONS:
            self.metrics.errors.labels("connections").inc()
            ours = (each for each in self.connections if isinstance(each, Connection) and each is not self)
            idle = (each for each in ours if each.is_between_requests and not each.transport.is_closing())
            min(idle, key=lambda each: each.opened, default=self).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse what came; what a refused client still sends goes nowhere."""
        # A header that comes at once is cut up, since h11 looks at the size of incomplete ones alone.
        step = self.limits.max_header_bytes if self.conn.their_state is h11.IDLE else len(data)
        for start in range(0, len(data), step):
            if self.is_refused or self.transport.is_closing():
                return
            super().data_received(data[start : start + step])
        if self._is_owed and len(self.conn.trailing_data[0]) < self.limits.max_header_bytes:
            self.flow.resume_reading()  # uvicorn would not see the client leave before it is answered

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more. A whole request of it is still answered, unless the client is gone altogether.

        To see that, it gets an interim answer, which HTTP allows at any time: a host that knows the connection no
        longer answers with a reset.
        """
        self._is_half_closed = True
        if self._is_owed and self.is_unanswered and self.scope["http_version"] == "1.1":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return self._is_owed  # False closes

    def handle_events(self) -> None:
        """As uvicorn's, but for how a request that is not read whole ends the connection."""
        super().handle_events()
        if self.cycle is not None:
            self.cycle.transport = self._for_cycles

    def on_response_complete(self) -> None:
        """Go on with the next request, unless there will be none."""
        super().on_response_complete()
        if self._is_half_closed and not self._is_owed:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in the words of the protocol and with the reason of h11, which uvicorn drops."""
        error = sys.exception()
        assert isinstance(error, h11.RemoteProtocolError)
        if error.error_status_hint == 431:
            limit = self.limits.max_header_bytes
            self.refuse(431, f"The header, or the end of a chunked body, is larger than the limit of {limit} bytes.")
        else:
            self.refuse(error.error_status_hint, f"The request cannot be read: {error}.")

    def refuse(self, status: int, message: str) -> None:
        """Answer in the application's stead, and end. What the application still says goes nowhere."""
        self.metrics.errors.labels(f"http_{status}").inc()
        self._unset_keepalive_if_required()
        if self.is_unanswered:
            body = protocol.write({"error": message})
            lines = [
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
                "content-type: application/json",
                f"content-length: {len(body)}",
                "connection: close",
            ]
            self.transport.write("\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + body)
        if self.is_answering:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._end()

    def _end(self) -> None:
        """Send no more. Closed at once, with bytes of the client unread, it would be reset, and the answer lost."""
        self.is_refused = True
        if self.transport.is_closing() or not self.transport.can_write_eof():
            self.transport.close()
        else:
            self.transport.write_eof()
            self.flow.resume_reading()

    def _close_for_cycle(self) -> None:
        if self.conn.their_state is h11.SEND_BODY:
            self._end()
        else:
            self.transport.close()

    @property
    def _is_owed(self) -> bool:
        """Has a whole request come that is not answered?"""
        return self.is_answering and not self.cycle.more_body and not self.is_refused

    def shutdown(self) -> None:
        """End when what is under way is answered."""
        if self.is_refused:
            self.transport.abort()
        else:
            super().shutdown()


class _OfCycle:
    """What uvicorn's RequestResponseCycle uses of a transport, with another way to write and to close."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._write = transport.write
        self.is_closing = transport.is_closing
        self.close = close

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(view), _PIECE):
            self._write(view[start : start + _PIECE])


class _Parser(h11.Connection):
    """h11, with two bounds more."""

    _num_chunks = 0

    def next_event(self) -> Any:
        """What comes next. Raises RemoteProtocolError."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._num_chunks = 0
            names = [name for name, _ in event.headers]
            if b"transfer-encoding" in names and b"content-length" in names:
                # h11 believes the first of them. A proxy before it may believe the second, and see other requests.
                raise h11.RemoteProtocolError("it has both Content-Length and Transfer-Encoding")
        elif isinstance(event, h11.Data) and event.chunk_start:
            self._num_chunks += 1
            if self._num_chunks > MAX_CHUNKS:
                raise h11.RemoteProtocolError(
                    f"its body comes in more than {MAX_CHUNKS} chunks, so send larger ones", error_status_hint=413
                )
        return event


def of(scope: Scope) -> Connection | None:
    """The connection that a request came on; None under another server of ASGI."""
    connection: Connection | None = scope.get("state", {}).get("connection")
    return connection


def _is_hung_up(transport: asyncio.Transport) -> bool:
    """Whether a reset came in; the event loop does not look at a connection whose client sends no more."""
    descriptor = transport.get_extra_info("socket").fileno()
    if descriptor < 0:  # closed since it was asked
        return True
    poll = select.poll()
    poll.register(descriptor, 0)
    return bool(poll.poll(0))
