"""The body of a request: read no further than allowed, and counted against what all bodies together may hold.

Where that memory is full, the body that has been on its way for longest gives way to those that come: otherwise a few
clients that send nearly all of a large body, and then wait, would shut out everybody else.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from serve.errors import InputError, Overloaded, TooLarge
from serve.http.limits import Limits
from serve.machine import num_cores

ENCODINGS = ("gzip", "deflate")
"""Content-Encoding that a body may have."""
_MOST_UNPACKED = 1032  # bytes that one byte of deflate can become: 258 for 2 bits


@dataclass(eq=False)
class _Arriving:
    """A body that is being read."""

    patience: asyncio.Timeout
    chunks: list[bytes] = field(default_factory=list)
    size: int = 0


class Bodies:
    """Hands out the bodies of requests, within the limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pending_bytes = 0  # of bodies that arrive, and of whole ones that are worked on
        self._arriving: dict[_Arriving, None] = {}  # the oldest first
        self._unpacking = asyncio.Semaphore(num_cores())  # zlib holds what it unpacks twice

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The body, unpacked and counted as pending until the block is left.

        Raises TooLarge, Overloaded while other bodies fill the memory set aside, InputError for a compressed body that
        cannot be unpacked, ClientDisconnect, and HTTPException 415 for another encoding.
        """
        encoding = request.headers.get("content-encoding", "identity").lower()
        if encoding not in (*ENCODINGS, "identity"):
            raise HTTPException(
                415, f"Content-Encoding must be one of {', '.join(ENCODINGS)} and identity, not {encoding:.40}."
            )
        declared = request.headers.get("content-length", "")
        if declared.isdecimal():
            self._check(int(declared))  # before a byte of it is held
        body = await self._arrived(request)
        counted = len(body)
        try:
            if encoding != "identity":
                most = min(self._limits.max_body_bytes, _MOST_UNPACKED * len(body))
                self._make_room(most)
                counted += most
                self._pending_bytes += most
                async with self._unpacking:
                    body = await asyncio.to_thread(self._unpacked, body, encoding)
                self._pending_bytes -= counted - len(body)
                counted = len(body)
            yield body
        finally:
            self._pending_bytes -= counted

    def _unpacked(self, packed: bytes, encoding: str) -> bytes:
        # 16 more bits of window tell zlib that gzip's header is expected instead of its own.
        unpacker = zlib.decompressobj(zlib.MAX_WBITS + 16 * (encoding == "gzip"))
        try:
            body = unpacker.decompress(packed, self._limits.max_body_bytes + 1)
        except zlib.error as error:
            raise InputError(f"The body is not what its Content-Encoding, {encoding}, says ({error}).") from error
        self._check(len(body))
        if not unpacker.eof or unpacker.unused_data:
            fault = "is cut short" if not unpacker.eof else "has more bytes behind its end"
            raise InputError(f"The compressed body {fault}; send one whole stream of {encoding}.")
        return body

    async def _arrived(self, request: Request) -> bytes:
        """The whole body, counted as pending."""
        try:
            async with asyncio.timeout(None) as patience:
                body = _Arriving(patience)
                self._arriving[body] = None
                try:
                    await self._fill(body, request)
                except BaseException:
                    self._pending_bytes -= body.size
                    raise
                finally:
                    self._arriving.pop(body, None)
        except TimeoutError:
            raise _full() from None
        return body.chunks[0] if len(body.chunks) == 1 else b"".join(body.chunks)

    async def _fill(self, body: _Arriving, request: Request) -> None:
        more = True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            if body not in self._arriving:  # it gave way to others just now
                raise _full()
            chunk: bytes = message.get("body", b"")
            self._check(body.size + len(chunk))
            self._make_room(len(chunk), body)
            body.chunks.append(chunk)
            body.size += len(chunk)
            self._pending_bytes += len(chunk)
            more = message.get("more_body", False)

    def _check(self, size: int) -> None:
        if size > self._limits.max_body_bytes:
            raise TooLarge(
                f"The body is larger than the limit of {self._limits.max_body_bytes} bytes; send a smaller file, or "
                "fewer images at once."
            )

    def _make_room(self, size: int, newcomer: _Arriving | None = None) -> None:
        while self._pending_bytes + size > self._limits.max_pending_bytes:
            oldest = next(iter(self._arriving), newcomer)
            if oldest is None or oldest is newcomer:
                raise _full()
            del self._arriving[oldest]
            oldest.chunks.clear()
            self._pending_bytes -= oldest.size
            oldest.size = 0
            oldest.patience.reschedule(asyncio.get_running_loop().time())  # it is told so, as soon as it waits again


def _full() -> Overloaded:
    return Overloaded("Other requests fill the memory set aside for bodies; try again later.")
