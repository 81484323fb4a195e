"""What every request passes on its way in and out: the bearer token, the counters and the access log."""

import hmac
import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.http import page as demo
from serve.http import protocol
from serve.http.logs import ACCESS
from serve.http.metrics import Metrics

OPEN_PATHS = ("/v2/health/live", "/v2/health/ready", *demo.FILES)
"""Asked by probes, which carry no token, and by browsers before the page has asked for one; none tells of a model."""


class Gate:
    """ASGI middleware.

    token    who does not send `Authorization: Bearer TOKEN` gets 401; None lets everybody in
    metrics  where requests are counted
    """

    def __init__(self, app: ASGIApp, token: str | None, metrics: Metrics) -> None:
        self._app = app
        self._expected = None if token is None else b"Bearer " + token.encode("latin-1")
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if self._expected is None or scope["path"] in OPEN_PATHS or self._is_allowed(scope):
                await self._app(scope, receive, watched)
            else:
                self._metrics.errors.labels("unauthorized").inc()
                await _refuse(watched)
        finally:
            seconds = time.perf_counter() - started
            route = scope.get("route")
            path = "none" if route is None else route.path
            self._metrics.requests.labels(path, status).inc()
            self._metrics.request_seconds.labels(path).observe(seconds)
            if ACCESS.isEnabledFor(logging.INFO):
                _log(scope, status, seconds)

    def _is_allowed(self, scope: Scope) -> bool:
        assert self._expected is not None
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        # compare_digest takes as long for a near miss as for a far one.
        return len(given) == 1 and hmac.compare_digest(given[0], self._expected)


async def _refuse(send: Send) -> None:
    body = protocol.write({"error": "This server wants a bearer token: send 'Authorization: Bearer TOKEN'."})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"www-authenticate", b"Bearer"),
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _log(scope: Scope, status: int, seconds: float) -> None:
    client = scope.get("client")
    ACCESS.info(
        "%s %s %d",
        scope["method"],
        scope["path"],
        status,
        extra={
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": round(1000 * seconds, 3),
            "client": None if client is None else client[0],
        },
    )
