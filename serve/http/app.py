"""An HTTP server of exported models: the Open Inference Protocol v2, with JSON and with binary tensors.

    GET  /v2                        server metadata
    GET  /v2/health/live            is the process up
    GET  /v2/health/ready           can it answer
    GET  /v2/models/NAME            name, platform, inputs and outputs of a model
    GET  /v2/models/NAME/ready      can that model answer
    POST /v2/models/NAME/infer      pixels -> probabilities and logits
    POST /classify                  an image file -> its best labels (classify.py)
    GET  /                          the demo page (demo.py)
    GET  /metrics                   counters for Prometheus
    GET  /openapi.json              all of this for programs

/versions/1 may stand behind NAME. Every error is {"error": "one sentence"}: 400 for a bad request, 404 for a wrong
name, 405, 413 and 415 for a body too large or compressed, 503 with Retry-After for a server that is busy; before a
request comes here, 400, 408, 413 and 431 (connection.py, clocks.py), 401, 403, 421 and 503 (doorkeeper.py).
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from serve.errors import ClientLeft, DeadlineExceeded, ImageError, InputError, Overloaded, TooLarge, Unavailable
from serve.http import binary_tensors, classify, connection, openapi, protocol
from serve.http import metrics as serve_metrics
from serve.http import page as demo
from serve.http.batching import Batcher, Batching, IsLeft, never
from serve.http.body import Bodies
from serve.http.doorkeeper import Doorkeeper
from serve.http.gate import Gate
from serve.http.limits import Limits
from serve.http.metrics import Metrics
from serve.model.classifier import OnnxClassifier

VERSION = "0.1.0"
_LEFT = 499  # as nginx calls it; a 503 would count against the server
_REASONS: dict[type[Exception], str] = {
    Overloaded: "overloaded",
    DeadlineExceeded: "deadline",
    TooLarge: "too_large",
    ImageError: "bad_image",
}


def create_app(
    models: Mapping[str, OnnxClassifier],
    limits: Limits | None = None,
    batching: Batching | None = None,
    token: str | None = None,
    samples: Sequence[demo.Sample] = (),
    is_local: bool = False,
) -> Starlette:
    """The ASGI application. Each model is `app.state.batchers[name]`, awaited by whatever route wants its answer.

    models    the models by the name they have in URLs
    limits    what a client may ask of the server
    batching  how requests are gathered and when they are turned away
    token     what `Authorization: Bearer` must carry; None lets everybody in
    samples   images that the demo page offers
    is_local  the server listens to its own machine alone, and without a token (doorkeeper.py)
    """
    metrics, limits = Metrics(), limits or Limits()
    model = "/v2/models/{name}"
    version = model + "/versions/{version}"
    app = Starlette(
        routes=[
            # Matched from the top: the path of every inference comes first.
            Route(model + "/infer", _infer, methods=["POST"]),
            Route(version + "/infer", _infer, methods=["POST"]),
            Route("/v2", _server),
            Route("/v2/", _server),  # the spelling of the protocol's OpenAPI file
            Route("/v2/health/live", _live),
            Route("/v2/health/ready", _ready),
            Route(model, _model),
            Route(version, _model),
            Route(model + "/ready", _model_ready),
            Route(version + "/ready", _model_ready),
            Route("/metrics", _metrics),
            Route("/openapi.json", _openapi),
            # More routes go here, and into openapi.py.
            Route("/classify", _classify, methods=["POST"]),
            *demo.routes(models, samples),
        ],
        middleware=[Middleware(Gate, doorkeeper=Doorkeeper(limits, token, is_local), metrics=metrics)],
        exception_handlers={
            InputError: _bad_input,
            Unavailable: _unavailable,
            ClientLeft: _client_left,
            HTTPException: _http_error,
            ClientDisconnect: _client_left,
            Exception: _failure,
        },
        lifespan=_lifespan,
    )
    app.router.redirect_slashes = False  # the Location would be made of what the client says in Host
    app.state.models = dict(models)
    app.state.metrics = metrics
    app.state.batchers = {
        name: Batcher(model, batching or Batching(), metrics.of_model(name)) for name, model in models.items()
    }
    app.state.limits = limits
    app.state.bodies = Bodies(limits)
    app.state.decoder = classify.Decoder()
    return app


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    yield
    await asyncio.gather(*(batcher.close() for batcher in app.state.batchers.values()))


async def _server(request: Request) -> Response:
    return _json({"name": "pupil", "version": VERSION, "extensions": list(protocol.EXTENSIONS)})


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
    state = request.app.state
    async with state.bodies.read(request) as body:
        content, tail = binary_tensors.split(body, request.headers.get(binary_tensors.HEADER))
        asked = protocol.read(content, tail, state.limits)
        batcher: Batcher = state.batchers[request.path_params["name"]]
        probabilities, logits = await batcher(asked.pixels, asked.timeout_ms, _is_left(request))
    content, tensors = protocol.answer(model, asked, probabilities, logits)
    if not tensors:
        return Response(content, media_type="application/json")
    return Response(
        binary_tensors.join(content, tensors),
        headers={binary_tensors.HEADER: str(len(content))},
        media_type="application/octet-stream",
    )


async def _classify(request: Request) -> Response:
    asked, state, is_left = classify.read(request), request.app.state, _is_left(request)
    async with state.bodies.read(request) as body:
        return _json(await classify.answer(state.decoder, state.batchers[asked.model], asked, body, is_left))


async def _metrics(request: Request) -> Response:
    metrics: Metrics = request.app.state.metrics
    return Response(metrics.text(), headers={"Content-Type": serve_metrics.CONTENT_TYPE})


async def _openapi(request: Request) -> Response:
    return _json(openapi.document(VERSION, request.app.state.models, request.app.state.limits))


def _is_left(request: Request) -> IsLeft:
    client = connection.of(request.scope)
    return never if client is None else client.is_left


def _named(request: Request) -> OnnxClassifier:
    models: dict[str, OnnxClassifier] = request.app.state.models
    name = request.path_params["name"]
    if name not in models:
        raise HTTPException(404, f"There is no model {name!r:.80} here, only {', '.join(models) or 'none at all'}.")
    version = request.path_params.get("version")
    if version is not None and version not in protocol.VERSIONS:
        raise HTTPException(404, f"Model {name} has no version {version!r:.80}, only {', '.join(protocol.VERSIONS)}.")
    return models[name]


async def _bad_input(request: Request, error: Exception) -> Response:
    _count(request, _REASONS.get(type(error), "bad_input"))
    return _json({"error": str(error)}, 413 if isinstance(error, TooLarge) else 400)


async def _unavailable(request: Request, error: Exception) -> Response:
    _count(request, _REASONS[type(error)])
    return _json({"error": str(error)}, 503, {"Retry-After": "1"})


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    _count(request, f"http_{error.status_code}")
    message = error.detail
    if error.status_code == 405 or "endpoint" not in request.scope:  # the router's own words say too little
        message = f"{request.method} {request.scope['path']:.200} is not served here; /openapi.json lists what is."
    return _json({"error": message}, error.status_code, error.headers)


async def _client_left(request: Request, error: Exception) -> Response:
    _count(request, "left")
    return Response(status_code=_LEFT)  # nobody reads it, but it is counted


async def _failure(request: Request, error: Exception) -> Response:
    _count(request, "failure")
    return _json({"error": "The server failed on this request; its log says why."}, 500)


def _count(request: Request, reason: str) -> None:
    request.app.state.metrics.errors.labels(reason).inc()


def _json(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(protocol.write(content), status, headers, media_type="application/json")
