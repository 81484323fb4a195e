"""An HTTP server of exported models: the Open Inference Protocol v2, JSON tensors.

    GET  /v2                        server metadata
    GET  /v2/health/live            is the process up
    GET  /v2/health/ready           can it answer
    GET  /v2/models/NAME            name, platform, inputs and outputs of a model
    GET  /v2/models/NAME/ready      can that model answer
    POST /v2/models/NAME/infer      pixels -> probabilities and logits

Every error is {"error": "one sentence"}: 400 for a bad request, 404 for a wrong name, 413 for a body too large.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from serve import protocol
from serve.batching import Batcher, Batching
from serve.errors import InputError, Unavailable
from serve.model import OnnxClassifier

VERSION = "0.1.0"
MAX_BODY_BYTES = 16 * 2**20


def create_app(
    models: Mapping[str, OnnxClassifier], max_body_bytes: int = MAX_BODY_BYTES, batching: Batching | None = None
) -> Starlette:
    """The ASGI application.

    models          the models by the name they have in URLs
    max_body_bytes  a larger request is refused before it is held in memory
    batching        how requests are gathered and when they are turned away
    """
    app = Starlette(
        routes=[
            Route("/v2", _server),
            Route("/v2/health/live", _live),
            Route("/v2/health/ready", _ready),
            Route("/v2/models/{name}", _model),
            Route("/v2/models/{name}/ready", _model_ready),
            Route("/v2/models/{name}/infer", _infer, methods=["POST"]),
            # More routes go here.
        ],
        exception_handlers={
            InputError: _bad_input,
            Unavailable: _unavailable,
            HTTPException: _http_error,
            ClientDisconnect: _client_left,
            Exception: _failure,
        },
        lifespan=_lifespan,
    )
    app.state.models = dict(models)
    app.state.batchers = {name: Batcher(model, batching or Batching()) for name, model in models.items()}
    app.state.max_body_bytes = max_body_bytes
    return app


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    yield
    await asyncio.gather(*(batcher.close() for batcher in app.state.batchers.values()))


async def _server(request: Request) -> Response:
    return _json({"name": "pupil", "version": VERSION, "extensions": []})


async def _live(request: Request) -> Response:
    return _json({"live": True})


async def _ready(request: Request) -> Response:
    return _json({"ready": True})  # models are loaded before the application is made


async def _model(request: Request) -> Response:
    return _json(protocol.metadata(_named(request)))


async def _model_ready(request: Request) -> Response:
    return _json({"name": _named(request).card.name, "ready": True})


async def _infer(request: Request) -> Response:
    model = _named(request)
    asked = protocol.read(await _body(request))
    probabilities, logits = await request.app.state.batchers[request.path_params["name"]](asked.pixels)
    return Response(protocol.answer(model, asked, probabilities, logits), media_type="application/json")


def _named(request: Request) -> OnnxClassifier:
    models: dict[str, OnnxClassifier] = request.app.state.models
    name = request.path_params["name"]
    if name not in models:
        raise HTTPException(404, f"There is no model {name!r} here, only {', '.join(models) or 'none at all'}.")
    return models[name]


async def _body(request: Request) -> bytes:
    """The request's body; stops reading, with status 413, as soon as it is known to be too large."""
    limit: int = request.app.state.max_body_bytes
    too_large = HTTPException(413, f"The body is larger than the limit of {limit} bytes; send fewer images at once.")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():  # a chunked request declares no length, and a declared one may be a lie
        body += chunk
        if len(body) > limit:
            raise too_large
    return bytes(body)


async def _bad_input(request: Request, error: Exception) -> Response:
    return _json({"error": str(error)}, 400)


async def _unavailable(request: Request, error: Exception) -> Response:
    return _json({"error": str(error)}, 503, {"Retry-After": "1"})


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = error.detail
    if error.status_code == 405 or "endpoint" not in request.scope:  # the router's own words say too little
        message = f"{request.method} {request.scope['path']} is not served here; the paths are those of /v2."
    return _json({"error": message}, error.status_code, error.headers)


async def _client_left(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it; without a handler the log would show a failure


async def _failure(request: Request, error: Exception) -> Response:
    return _json({"error": "The server failed on this request; its log says why."}, 500)


def _json(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(protocol.write(content), status, headers, media_type="application/json")
