"""Several processes that serve on one socket. A worker that dies is replaced; none outlives the parent."""

import logging
import os
import signal
import socket
import tempfile
from collections.abc import Callable
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from types import FrameType

from prometheus_client.multiprocess import mark_process_dead

from serve.errors import ServeError
from serve.http import logs, server
from serve.http.server import Settings

_READY = b"ready "
_POLL_S = 0.2
_LOG = logging.getLogger("serve.http.workers")


def serve(settings: Settings, listener: socket.socket, num: int, on_ready: Callable[[list[str]], None]) -> None:
    """Serve with `num` processes until a signal comes. Raises ServeError if one cannot begin."""
    logs.set_up(settings.access_log)
    with tempfile.TemporaryDirectory(prefix="pupil-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # read by the workers as they import prometheus_client
        crew = _Crew(settings, listener, folder)
        try:
            with _Signals() as signals:
                names = crew.begin(num)
                if not signals.came:
                    on_ready(names)
                while not signals.came:
                    crew.mend(signals)
                listener.close()
        finally:
            crew.end()
            del os.environ["PROMETHEUS_MULTIPROC_DIR"]


class _Signals:
    """Notes SIGINT and SIGTERM instead of dying of them."""

    def __enter__(self) -> "_Signals":
        self.came = False
        self._before = {each: signal.signal(each, self._note) for each in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = True


class _Crew:
    def __init__(self, settings: Settings, listener: socket.socket, folder: str) -> None:
        self._settings = settings
        self._listener = listener
        self._folder = folder
        self._workers: dict[Pipe, BaseProcess] = {}

    def begin(self, num: int) -> list[str]:
        """Start the workers; the names of their models, once all are ready."""
        started = [self._start() for _ in range(num)]
        heard = [self._heard(pipe) for pipe in started]
        return heard[0]

    def mend(self, signals: _Signals) -> None:
        """Wait a moment, and replace whoever died in it."""
        sentinels = {worker.sentinel: pipe for pipe, worker in self._workers.items()}
        for sentinel in connection.wait(list(sentinels), _POLL_S):
            if signals.came:  # a terminal sends Ctrl-C to the workers too
                return
            pipe = sentinels[sentinel]  # type: ignore[index]
            worker = self._workers.pop(pipe)
            pipe.close()
            worker.join()
            assert worker.pid is not None
            mark_process_dead(worker.pid, self._folder)  # type: ignore[no-untyped-call]
            _LOG.error("Worker %d ended with status %s; another takes its place.", worker.pid, worker.exitcode)
            self._heard(self._start())

    def end(self) -> None:
        """Let every worker answer what it has accepted, and end."""
        for worker in self._workers.values():
            worker.terminate()
        for pipe, worker in self._workers.items():
            worker.join(self._settings.limits.drain_timeout_s + 10)
            worker.kill()
            worker.join()
            pipe.close()
        self._workers.clear()

    def _start(self) -> Pipe:
        context = get_context("spawn")  # a fork would copy whatever threads hold at that moment
        ours, theirs = context.Pipe()
        worker = context.Process(target=_work, args=(self._settings, self._listener, theirs))
        worker.start()
        theirs.close()
        self._workers[ours] = worker
        return ours

    def _heard(self, pipe: Pipe) -> list[str]:
        """The names of a worker's models, once it is ready. Raises ServeError with its reason if it is not."""
        try:
            said = pipe.recv_bytes()
        except EOFError:
            said = b"A worker ended before it was ready; its log says why."
        if not said.startswith(_READY):
            raise ServeError(said.decode())
        return said.removeprefix(_READY).decode().split()


def _work(settings: Settings, listener: socket.socket, parent: Pipe) -> None:
    """A worker's whole life."""
    try:
        server.serve(settings, listener, lambda names: parent.send_bytes(_READY + " ".join(names).encode()), parent)
    except ServeError as error:
        parent.send_bytes(str(error).encode())
