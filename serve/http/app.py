"""An HTTP server of exported models: the Open Inference Protocol v2, with JSON and with binary tensors.

    GET  /v2                        server metadata
    GET  /v2/health/live            is the process up
    GET  /v2/health/ready           can it answer
    GET  /v2/models/NAME            name, platform, inputs and outputs of a model
    GET  /v2/models/NAME/ready      can that model answer
    POST /v2/models/NAME/infer      pixels -> probabilities and logits
    POST /v2/repository/...         which models there are; load and unload them (repository.py)
    POST /classify                  an image file -> its best labels (classify.py)
    GET  /                          the demo page (page.py)
    GET  /metrics                   counters for Prometheus
    GET  /openapi.json              all of this for programs

/versions/1 may stand behind NAME. Every error is {"error": "one sentence"}: 400 for a bad request, 404 for a wrong
name, 405, 413 and 415 for a body too large or in another encoding, 503 with Retry-After for a server that is busy;
before a request comes here, 400, 408, 413 and 431 (connection.py, clocks.py), 401, 403, 421 and 503 (doorkeeper.py).
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Literal

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from serve.errors import (
    ClientLeft,
    DeadlineExceeded,
    ImageError,
    InputError,
    Overloaded,
    ServeError,
    TooLarge,
    Unavailable,
)
from serve.http import binary_tensors, classify, connection, gate, openapi, protocol, repository
from serve.http import metrics as serve_metrics
from serve.http import page as demo
from serve.http.batching import Batcher, Batching, IsLeft, never
from serve.http.body import Bodies
from serve.http.doorkeeper import Doorkeeper
from serve.http.limits import Limits
from serve.http.metrics import Metrics
from serve.http.repository import Repository
from serve.http.tokens import Digest
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
    tokens: frozenset[Digest] = frozenset(),
    samples: Sequence[demo.Sample] = (),
    origins: Collection[str] = (),
    is_local: bool = False,
    parent: int | None = None,
) -> Starlette:
    """The ASGI application. `app.state.repository` has the models, `app.state.doorkeeper` the tokens.

    models    the models by the name they have in URLs
    limits    what a client may ask of the server
    batching  how requests are gathered and when they are turned away
    tokens    of which `Authorization: Bearer` must carry one; none lets everybody in
    samples   images that the demo page offers
    origins   of other pages whose scripts may use the server ("CORS"); "*" stands for all
    is_local  the server listens to its own machine alone, and without a token (doorkeeper.py)
    parent    of several processes that serve, of which this is one
    """
    metrics, limits = Metrics(), limits or Limits()
    models_ = Repository(models, batching or Batching(), metrics)
    doorkeeper = Doorkeeper(limits, tokens, origins, is_local)
    middleware = [Middleware(gate.Gate, doorkeeper=doorkeeper, metrics=metrics)]
    if origins:
        # Outside of the gate: a browser asks without a token whether it may ask, and reads refusals only with CORS.
        headers = ["Authorization", "Content-Encoding", "Content-Type", binary_tensors.HEADER]
        middleware.insert(
            0,
            Middleware(
                CORSMiddleware,
                allow_origins=tuple(origins),
                allow_methods=("GET", "POST"),
                allow_headers=headers,
                expose_headers=(binary_tensors.HEADER,),
            ),
        )
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
            Route(repository.PATH + "/index", _index, methods=["POST"]),
            Route(repository.CONTROL + "{name}/load", _load, methods=["POST"]),
            Route(repository.CONTROL + "{name}/unload", _unload, methods=["POST"]),
            Route("/metrics", _metrics),
            Route("/openapi.json", _openapi),
            # More routes go here, and into openapi.py.
            Route("/classify", _classify, methods=["POST"]),
            *demo.routes(models_, samples),
        ],
        middleware=middleware,
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
    app.state.repository = models_
    app.state.doorkeeper = doorkeeper
    app.state.parent = parent
    app.state.metrics = metrics
    app.state.limits = limits
    app.state.bodies = Bodies(limits)
    app.state.decoder = classify.Decoder()
    return app


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    yield
    await app.state.repository.close()


async def _server(request: Request) -> Response:
    return _json({"name": "pupil", "version": VERSION, "extensions": [*protocol.EXTENSIONS, repository.EXTENSION]})


async def _live(request: Request) -> Response:
    return _json({"live": True})


async def _ready(request: Request) -> Response:
    return _json({"ready": True})  # models are loaded before the application is made


async def _model(request: Request) -> Response:
    return _json(protocol.metadata(_asked(request).model))


async def _model_ready(request: Request) -> Response:
    return _json({"name": _asked(request).model.card.name, "ready": True})


async def _infer(request: Request) -> Response:
    batcher, state = _asked(request), request.app.state
    async with state.bodies.read(request) as body:
        content, tail = binary_tensors.split(body, request.headers.get(binary_tensors.HEADER))
        asked = protocol.read(content, tail, state.limits)
        protocol.check_texts(asked, len(batcher.model.card.labels))
        probabilities, logits = await batcher(asked.pixels, asked.timeout_ms, _is_left(request))
    content, tensors = protocol.answer(batcher.model, asked, probabilities, logits)
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
        return _json(await classify.answer(state.decoder, asked, body, is_left))


async def _index(request: Request) -> Response:
    state = request.app.state
    async with state.bodies.read(request) as body:
        asked = repository.read(body, state.limits, "ready")
    is_ready_only = asked.get("ready")
    if is_ready_only not in (None, True, False):
        raise InputError("'ready' must be true or false.")
    return _json(state.repository.index(bool(is_ready_only)))


async def _load(request: Request) -> Response:
    return await _change(request, "load")


async def _unload(request: Request) -> Response:
    return await _change(request, "unload")


async def _change(request: Request, verb: Literal["load", "unload"]) -> Response:
    state = request.app.state
    async with state.bodies.read(request) as body:
        repository.read_change(body, state.limits)
    models: Repository = state.repository
    name = request.path_params["name"]
    if name not in models.names:
        raise HTTPException(404, _no_model(name, models.names))
    if state.parent is not None:
        raise InputError(
            f"Several processes serve here, and this would reach one of them. Send SIGHUP to process {state.parent}, "
            "and all of them read their files again."
        )
    try:
        await (models.load(name) if verb == "load" else models.unload(name))
    except ServeError as error:
        raise InputError(str(error)) from error
    return _json({})


async def _metrics(request: Request) -> Response:
    metrics: Metrics = request.app.state.metrics
    return Response(metrics.text(), headers={"Content-Type": serve_metrics.CONTENT_TYPE})


async def _openapi(request: Request) -> Response:
    return _json(openapi.document(VERSION, request.app.state.repository.names, request.app.state.limits))


def _is_left(request: Request) -> IsLeft:
    client = connection.of(request.scope)
    return never if client is None else client.is_left


def _asked(request: Request) -> Batcher:
    """The model that the path names. Requests that have found it are answered by it, whatever is loaded meanwhile."""
    models: Repository = request.app.state.repository
    name = request.path_params["name"]
    if name not in models.batchers:
        raise HTTPException(404, _no_model(name, models.batchers))
    version = request.path_params.get("version")
    if version is not None and version not in protocol.VERSIONS:
        raise HTTPException(404, f"Model {name} has no version {version!r:.80}, only {', '.join(protocol.VERSIONS)}.")
    request.scope[gate.MODEL] = name
    return models.batchers[name]


def _no_model(name: str, others: Collection[str]) -> str:
    return f"There is no model {name!r:.80} here, only {', '.join(others) or 'none at all'}."


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
