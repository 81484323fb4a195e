"""One process that serves: uvicorn with our connections, and a way down on which every accepted request is answered."""

import asyncio
import gc
import ipaddress
import logging
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from serve.errors import ServeError
from serve.http import connection, logs, tls, tokens
from serve.http import page as demo
from serve.http.app import create_app
from serve.http.batching import Batching
from serve.http.clocks import Clocks
from serve.http.limits import Limits
from serve.http.metrics import Metrics
from serve.http.repository import Repository
from serve.http.terminal import Terminal
from serve.http.tokens import Digest
from serve.model.classifier import OnnxClassifier
from serve.model.devices import Device

_LOG = logging.getLogger("serve.http.server")
_IDLE_GRACE_S = 0.5
_BACKLOG = 2048
_OWN_FILES = 64  # that the process opens beside connections
_SILENCE_S = 60.0  # between two lines of log about the same
_CLOSE = (b"connection", b"close")


@dataclass(frozen=True)
class Settings:
    """What `python -m serve run` was asked for."""

    paths: tuple[Path, ...]
    threads: int  # of one call of a model
    limits: Limits
    batching: Batching
    tokens: frozenset[Digest]
    access_log: bool
    token_file: Path | None = None  # that the tokens stand in
    origins: tuple[str, ...] = ()  # of other pages that may use the server
    https: tls.Files | None = None
    samples: Path | None = None  # a prepared split for the demo page
    device: Device = "auto"


def load(settings: Settings) -> dict[str, OnnxClassifier]:
    """The models by the names on their cards. Raises ServeError."""
    models: dict[str, OnnxClassifier] = {}
    for path in settings.paths:
        model = OnnxClassifier(path, settings.threads, settings.device)
        if model.card.name in models:
            raise ServeError(
                f"{path} is named {model.card.name!r} like a model before it; serve one of them at a time."
            )
        models[model.card.name] = model
    return models


def serve(
    settings: Settings, listener: socket.socket, on_ready: Callable[[list[str]], None], parent: Pipe | None = None
) -> None:
    """Serve until a signal comes, or `parent` is closed at its other end; on_ready gets the names of the models.

    Raises ServeError for a model that cannot be loaded or computed.
    """
    logs.set_up(settings.access_log)
    app = _application(settings, listener, None if parent is None else os.getppid())
    gc.collect()
    gc.freeze()  # what lives as long as the process need not be looked at again
    ready = partial(on_ready, app.state.repository.names)
    Server(app, ready, parent, settings.token_file, settings.https).run([listener])


def _application(settings: Settings, listener: socket.socket, parent: int | None) -> Starlette:
    """The application, its models ready. It alone holds them, so that they go when others take their place."""
    models = load(settings)
    labels = next(iter(models.values())).card.labels
    samples = [] if settings.samples is None else demo.load_samples(settings.samples, labels)
    app = create_app(
        models,
        _within_open_files(settings.limits),
        settings.batching,
        settings.tokens,
        samples,
        settings.origins,
        is_local=not settings.tokens and is_loopback(listener),
        parent=parent,
    )
    repository: Repository = app.state.repository
    for batcher in repository.batchers.values():
        batcher.warm_up()
    metrics: Metrics = app.state.metrics
    metrics.take_room(["none", *(route.path for route in app.routes if isinstance(route, Route))])
    return app


def is_loopback(listener: socket.socket) -> bool:
    """Can this machine alone reach the socket?"""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


class Server(uvicorn.Server):
    """uvicorn's server with our limits, our way to stop, and files that are read again on SIGHUP."""

    def __init__(
        self,
        app: Starlette,
        on_ready: Callable[[], None],
        parent: Pipe | None = None,
        token_file: Path | None = None,
        https: tls.Files | None = None,
    ) -> None:
        limits: Limits = app.state.limits
        self._token_file = token_file
        self._https = https
        self._tls = None if https is None else tls.context(https)
        config = uvicorn.Config(
            app,
            http=connection.factory(limits, app.state.metrics, self._on_surplus),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # anybody's X-Forwarded-For would stand in the log as the client
            server_header=False,
            backlog=_BACKLOG,
            h11_max_incomplete_event_size=limits.max_header_bytes,
            timeout_keep_alive=int(limits.keep_alive_s),
            timeout_graceful_shutdown=int(limits.drain_timeout_s),
            ssl_context_factory=tls.factory(self._tls),
            loop="auto" if self._tls is None else "serve.http.tls:Loop",
        )
        super().__init__(config)
        self._app = app
        self._limits = limits
        self._clocks = Clocks(limits)
        self._on_ready = on_ready
        self._parent = parent
        self._told = -_SILENCE_S
        self._is_hung_up = False
        self._terminal = Terminal()
        self._reading: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept, and tell so."""
        await super().startup(sockets)
        if self._parent is not None:
            asyncio.get_running_loop().add_reader(self._parent.fileno(), self._parent_ended, self._parent)
        if threading.current_thread() is threading.main_thread():  # no other may have signals
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_hangup)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])  # which workers.py blocks until now
        self._on_ready()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second, until the way down, which has a clock of its own."""
        self._clocks.look(self.server_state.connections, asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, answer what is accepted, and let idle clients hear of it in their next answer.

        uvicorn would close idle connections at once, and with them requests that are on their way.
        """
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        self.server_state.default_headers = [*self.server_state.default_headers, _CLOSE]
        for each in self.server_state.connections:
            assert isinstance(each, connection.Connection)
            if each.cycle is not None:  # which has the headers of when it began
                each.cycle.default_headers = self.server_state.default_headers
        clock = asyncio.get_running_loop().time
        over = clock() + _IDLE_GRACE_S
        while self.server_state.connections and clock() < over and not self.force_exit:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; a second Ctrl-C stops at once. Unlike uvicorn's, the process then ends with status 0."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    def _on_hangup(self) -> None:
        if self._terminal.has_closed():
            self.should_exit = True
            return
        self._is_hung_up = True
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().create_task(self._read_until_heard())

    async def _read_until_heard(self) -> None:
        # A signal that comes meanwhile may tell of a file that was read before it changed.
        while self._is_hung_up:
            self._is_hung_up = False
            await self._read_again()

    async def _read_again(self) -> None:
        """Tokens, certificate, models: what cannot be used stays as it was."""
        try:
            self._app.state.doorkeeper.tokens = tokens.read(self._token_file)
        except ServeError as error:
            _LOG.error("%s Until then the server goes on with the tokens that it had.", error)
        try:
            if self._tls is not None and self._https is not None:
                tls.load(self._tls, self._https)
        except ServeError as error:
            _LOG.error("%s Until then the server goes on with the certificate that it had.", error)
        repository: Repository = self._app.state.repository
        for name in repository.names:
            try:
                await repository.load_again(name)
            except ServeError as error:
                _LOG.error("%s Until then %s is served as it was.", error, name)
        _LOG.info("The files were read again.")

    def _on_surplus(self) -> None:
        now = time.monotonic()
        if now - self._told > _SILENCE_S:
            self._told = now
            _LOG.warning(
                "%d connections are open, which is as many as may (--max-connections); others are answered 503.",
                self._limits.max_connections,
            )

    def _parent_ended(self, parent: Pipe) -> None:
        asyncio.get_running_loop().remove_reader(parent.fileno())
        self.should_exit = True


def _within_open_files(limits: Limits) -> Limits:
    """The limits, with no more connections than this process may open files.

    libuv hangs up on clients beyond that without a word, to them or in the log.
    """
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    others = connection.SPARE_CONNECTIONS + _OWN_FILES
    wanted = limits.max_connections + others
    if allowed == resource.RLIM_INFINITY or allowed >= wanted:
        return limits
    allowed = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    except ValueError:  # macOS has a bound of its own below an unlimited one
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed == wanted:
        return limits
    room = max(1, allowed - others)
    _LOG.warning(
        "This process may open %d files (ulimit -n), so it takes %d connections at once, not %d (--max-connections).",
        allowed,
        room,
        limits.max_connections,
    )
    return replace(limits, max_connections=room)
