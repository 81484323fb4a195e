"""What every request passes on its way in and out: who may come in (doorkeeper.py), the counters, the access log."""

import logging
import re
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.http import protocol
from serve.http.doorkeeper import Doorkeeper, Refusal
from serve.http.logs import ACCESS
from serve.http.metrics import Metrics

MODEL = "pupil.model"
"""Key of a request's scope under which a route says which model it asked for."""
# version, trace, parent, flags; https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Gate:
    """ASGI middleware.

    doorkeeper  says who is refused
    metrics     where requests are counted
    """

    def __init__(self, app: ASGIApp, doorkeeper: Doorkeeper, metrics: Metrics) -> None:
        self._app = app
        self._doorkeeper = doorkeeper
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
            refusal = self._doorkeeper.refusal(scope)
            if refusal is None:
                await self._app(scope, receive, watched)
            else:
                self._metrics.errors.labels(refusal.reason).inc()
                await _refuse(refusal, watched)
        finally:
            seconds = time.perf_counter() - started
            route = scope.get("route")
            path = "none" if route is None else route.path
            self._metrics.requests.labels(path, status).inc()
            self._metrics.request_seconds.labels(path).observe(seconds)
            if (model := scope.get(MODEL)) is not None:
                self._metrics.model_requests.labels(model, status).inc()
            if ACCESS.isEnabledFor(logging.INFO):
                _log(scope, status, seconds)


async def _refuse(refusal: Refusal, send: Send) -> None:
    body = protocol.write({"error": refusal.message})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *refusal.headers,
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _log(scope: Scope, status: int, seconds: float) -> None:
    client = scope.get("client")
    traces = [value for name, value in scope["headers"] if name == b"traceparent" and _TRACEPARENT.fullmatch(value)]
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
        }
        | ({"traceparent": traces[0].decode("ascii")} if traces else {}),
    )
