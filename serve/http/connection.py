"""One connection of a client: uvicorn's protocol over h11, and what it leaves to others.

h11 reads on only after an answer, and holds no more than one incomplete piece of a request, so neither pipelining nor
endless headers and trailers cost memory. Added here: a sentence for every refusal, which arrives; answers to clients
that have closed their half of the connection; and room for a new client where idle ones have taken every place. The
clocks are in clocks.py.
"""

import asyncio
import select
import sys
from functools import partial
from http import HTTPStatus
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from serve.http import protocol
from serve.http.limits import Limits
from serve.http.metrics import Metrics

SPARE_CONNECTIONS = 64
"""Beyond the limit; they are answered 503, but for health (gate.py)."""


def factory(limits: Limits, metrics: Metrics) -> type[asyncio.Protocol]:
    """What uvicorn's Config takes as `http`."""
    return cast(type[asyncio.Protocol], partial(Connection, limits, metrics))


class Connection(H11Protocol):
    """uvicorn's connection over h11."""

    def __init__(self, limits: Limits, metrics: Metrics, *args: Any, app_state: dict[str, Any], **kwargs: Any) -> None:
        # What is in app_state is found in the scope of every request, so this is `request.state.is_left`.
        super().__init__(*args, app_state=app_state | {"is_left": self.is_left}, **kwargs)
        self.limits = limits
        self.metrics = metrics
        self.opened = 0.0  # by the clock of the event loop
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
        if len(self.connections) > self.limits.max_connections + SPARE_CONNECTIONS:
            self.metrics.errors.labels("connections").inc()
            ours = (each for each in self.connections if isinstance(each, Connection) and each is not self)
            idle = (each for each in ours if each.is_between_requests and not each.transport.is_closing())
            min(idle, key=lambda each: each.opened, default=self).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse what came; what a refused client still sends goes nowhere."""
        if not self.is_refused and not self.transport.is_closing():
            super().data_received(data)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more. A whole request of it is still answered, unless the client is gone altogether.

        To see that, it gets an interim answer, which HTTP allows at any time: a host that knows the connection no
        longer answers with a reset.
        """
        self._is_half_closed = True
        if self._is_owed and self.is_unanswered and self.scope["http_version"] == "1.1":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return self._is_owed  # False closes

    def on_response_complete(self) -> None:
        """Go on with the next request, unless there will be none."""
        super().on_response_complete()
        if self._is_half_closed and not self._is_owed:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in the words of the protocol and with the reason of h11, which uvicorn drops."""
        error = sys.exception()
        if isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == 431:
            self.refuse(431, header_too_large(self.limits))
        else:
            self.refuse(400, f"This is no HTTP/1.1 request: {error or msg}.")

    def refuse(self, status: int, message: str) -> None:
        """Answer in the application's stead, and end. What the application still says goes nowhere."""
        self.metrics.errors.labels(f"http_{status}").inc()
        self._unset_keepalive_if_required()
        self.is_refused = True
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
        if self.transport.is_closing() or not self.transport.can_write_eof():
            self.transport.close()
        else:
            # Closed at once, with bytes of the client unread, it would be reset, and the sentence lost.
            self.transport.write_eof()
            self.flow.resume_reading()

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


def header_too_large(limits: Limits) -> str:
    """The sentence for a header beyond the limit."""
    return f"The header is larger than the limit of {limits.max_header_bytes} bytes."


def _is_hung_up(transport: asyncio.Transport) -> bool:
    """Whether a reset came in; the event loop does not look at a connection whose client sends no more."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), 0)
    return bool(poll.poll(0))
