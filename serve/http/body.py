"""The body of a request: read no further than allowed, and counted against what all bodies together may hold."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from serve.errors import Overloaded, TooLarge
from serve.http.limits import Limits


class Bodies:
    """Hands out the bodies of requests, within the limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pending_bytes = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The body, counted as pending until the block is left.

        Raises TooLarge, Overloaded while other bodies fill the memory set aside, ClientDisconnect, and HTTPException
        415 for a compressed body.
        """
        encoding = request.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise HTTPException(415, f"Content-Encoding must be identity, not {encoding:.40}; send the body as it is.")
        declared = request.headers.get("content-length", "")
        if declared.isdecimal():
            self._check(int(declared), 0)  # before a byte of it is held
        held = 0
        chunks: list[bytes] = []
        try:
            more = True
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunk: bytes = message.get("body", b"")
                self._check(held + len(chunk), held)
                self._pending_bytes += len(chunk)
                held += len(chunk)
                chunks.append(chunk)
                more = message.get("more_body", False)
            yield chunks[0] if len(chunks) == 1 else b"".join(chunks)
        finally:
            self._pending_bytes -= held

    def _check(self, size: int, held: int) -> None:
        limits = self._limits
        if size > limits.max_body_bytes:
            raise TooLarge(
                f"The body is larger than the limit of {limits.max_body_bytes} bytes; send a smaller file, or fewer "
                "images at once."
            )
        if self._pending_bytes - held + size > limits.max_pending_bytes:
            raise Overloaded("Other requests fill the memory set aside for bodies; try again later.")
