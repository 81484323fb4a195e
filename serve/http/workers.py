"""Several processes that serve on one socket. A worker that dies is replaced; none outlives the parent.

Where no other can take its place, because the model's file is gone, for example, those that are left serve on, and the
parent tries again, ever more rarely.
"""

import contextlib
import logging
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from types import FrameType

from prometheus_client.multiprocess import mark_process_dead

from serve.errors import ServeError
from serve.http import logs, server
from serve.http.server import Settings
from serve.http.terminal import Terminal

_READY = "ready "
_POLL_S = 0.2
_LONGEST_PAUSE_S = 60.0  # before a worker that ended soon is replaced; whoever served for longer is replaced at once
_LOG = logging.getLogger("serve.http.workers")


def serve(settings: Settings, listener: socket.socket, num: int, on_ready: Callable[[list[str]], None]) -> None:
    """Serve with `num` processes until a signal comes. Raises ServeError if one cannot begin."""
    logs.set_up(settings.access_log)
    terminal = Terminal()
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
                    if signals.take_hangup():
                        if terminal.has_closed():
                            break
                        crew.hang_up()
                listener.close()
        finally:
            crew.end()
            del os.environ["PROMETHEUS_MULTIPROC_DIR"]


class _Signals:
    """Notes SIGINT and SIGTERM in `came`, and SIGHUP, instead of dying of them."""

    def __enter__(self) -> "_Signals":
        self.came = False
        self._is_hung_up = False
        handlers = {signal.SIGINT: self._note, signal.SIGTERM: self._note, signal.SIGHUP: self._note_hangup}
        self._before = {each: signal.signal(each, handler) for each, handler in handlers.items()}
        return self

    def __exit__(self, *exception: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = True

    def _note_hangup(self, number: int, frame: FrameType | None) -> None:
        self._is_hung_up = True

    def take_hangup(self) -> bool:
        """Has SIGHUP come since this was asked last?"""
        came, self._is_hung_up = self._is_hung_up, False
        return came


class _Crew:
    def __init__(self, settings: Settings, listener: socket.socket, folder: str) -> None:
        self._settings = settings
        self._listener = listener
        self._folder = folder
        self._workers: dict[Pipe, BaseProcess] = {}
        self._started: dict[Pipe, float] = {}
        self._due: list[float] = []  # when missing workers are to be started
        self._pause_s = 0.0

    def begin(self, num: int) -> list[str]:
        """Start the workers; the names of their models, once all are ready. Raises ServeError."""
        started = [self._start() for _ in range(num)]
        said = [_said(pipe) for pipe in started]
        for words in said:
            if not words.startswith(_READY):
                raise ServeError(words or "A worker ended before it was ready; its log says why.")
        return said[0].removeprefix(_READY).split()

    def mend(self, signals: _Signals) -> None:
        """Wait a moment, and see to the replacement of whoever died in it."""
        sentinels = {worker.sentinel: pipe for pipe, worker in self._workers.items()}
        for sentinel in connection.wait(list(sentinels), _POLL_S) if sentinels else ():
            if signals.came:  # a terminal sends Ctrl-C to the workers too
                return
            self._bury(sentinels[sentinel])  # type: ignore[index]
        if not sentinels:
            time.sleep(_POLL_S)
        now = time.monotonic()
        for _ in [due for due in self._due if due <= now]:
            self._start()
        self._due = [due for due in self._due if due > now]

    def _bury(self, pipe: Pipe) -> None:
        worker, now = self._workers.pop(pipe), time.monotonic()
        worker.join()
        assert worker.pid is not None
        mark_process_dead(worker.pid, self._folder)  # type: ignore[no-untyped-call]
        if now - self._started.pop(pipe) > _LONGEST_PAUSE_S:
            self._pause_s = 0.0
        self._due.append(now + self._pause_s)
        words = _said(pipe)
        _LOG.error(
            "Worker %d ended with status %s; another takes its place%s.%s",
            worker.pid,
            worker.exitcode,
            f" in {self._pause_s:.0f} s" if self._pause_s else "",
            "" if words.startswith(_READY) or not words else f" {words}",
        )
        self._pause_s = min(max(1.0, 2 * self._pause_s), _LONGEST_PAUSE_S)
        pipe.close()

    def hang_up(self) -> None:
        """Let every worker read its files again."""
        for worker in self._workers.values():
            assert worker.pid is not None
            with contextlib.suppress(ProcessLookupError):  # one that has just died is replaced, and reads them then
                os.kill(worker.pid, signal.SIGHUP)

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
        # Until it can hear SIGHUP, a worker would die of it. It begins with the signals blocked that we block.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
        try:
            worker.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
        theirs.close()
        self._workers[ours] = worker
        self._started[ours] = time.monotonic()
        return ours


def _said(pipe: Pipe) -> str:
    """What a worker says once it is ready, or cannot begin; "" where it ended without a word more."""
    try:
        return pipe.recv_bytes().decode()
    except (EOFError, OSError):
        return ""


def _work(settings: Settings, listener: socket.socket, parent: Pipe) -> None:
    """A worker's whole life."""
    try:
        server.serve(settings, listener, lambda names: parent.send_bytes((_READY + " ".join(names)).encode()), parent)
    except ServeError as error:
        parent.send_bytes(str(error).encode())
