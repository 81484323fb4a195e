"""The loop of a load generator: arrivals go out when they are due, whatever became of those before them."""

import asyncio
import contextlib
import os
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve.load.alarm import Alarm
from serve.load.client import Connection
from serve.load.target import TOLERANCE, Target, read_answer
from serve.timing.latency import Samples

MAX_IDLE_NS = 2 * 10**9  # servers close idle connections, and a request must not meet that
LEAD_NS = 10**9  # of quiet before the first arrival can be due: an earlier run may have left the server with work


@dataclass(frozen=True)
class Limits:
    """What a run may take."""

    bound_ms: float = 20.0  # of the p99
    timeout_s: float = 10.0  # an arrival without an answer by then has failed
    connections: int = 256  # open at once; an arrival beyond waits for one, and its clock runs


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    elapsed_s: float
    sent: int
    outstanding: int  # due and not answered
    failed: int


class OpenLoop:
    """Sends each arrival when it is due, over connections that are kept, and notes when its answer came.

    due  (n,) increasing ns from the start
    """

    def __init__(self, target: Target, due: Samples, limits: Limits) -> None:
        self._target, self._limits = target, limits
        # Machine integers, not lists: a garbage collection would go through a million numbers.
        self._due = array("q", due.tobytes())
        self._sent = array("q", bytes(8 * len(due)))
        self._done = array("q", bytes(8 * len(due)))  # 0: not answered well
        self._next = self._finished = 0
        self.errors: Counter[str] = Counter()
        self._idle: list[Connection] = []  # the one used last is taken first
        self._busy: set[Connection] = set()
        self._waiting: deque[int] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        self._alarm = Alarm(self._send_due)
        self._start = self._end = 0
        self._fault: Exception | None = None
        if not due.size:
            self._over.set()

    async def whole(self, observe: Callable[[Progress], None], to_first_failure: bool) -> None:
        """Until the last arrival has its answer or has failed, or this is cancelled."""
        # What fails in a callback would only be logged, and the run would go on with numbers that mean nothing.
        asyncio.get_running_loop().set_exception_handler(self._broke)
        self._start = time.monotonic_ns() + LEAD_NS
        try:
            self._send_due()
            await self._watch(observe, to_first_failure)
            if self._fault is not None:
                raise self._fault
        finally:
            self._end = time.monotonic_ns()
            self._alarm.close()
            for task in self._opening:
                task.cancel()
            for connection in [*self._idle, *self._busy]:
                connection.close()

    def measured(self) -> tuple[Samples, Samples, float]:
        """When each arrival was sent and answered (0: not answered well), ns from the start; seconds in all."""
        sent, done = (np.frombuffer(a, dtype=np.int64)[: self._next] for a in (self._sent, self._done))
        return sent - self._start, np.where(done > 0, done - self._start, 0), max(0, self._end - self._start) / 1e9

    async def _watch(self, observe: Callable[[Progress], None], to_first_failure: bool) -> None:
        while not (self._over.is_set() or (to_first_failure and self.errors)):
            # Not wait_for: before Python 3.12 it loses a cancellation that comes as the wait ends.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._over.wait()
            now = time.monotonic_ns()
            self._give_up(now - int(self._limits.timeout_s * 1e9))
            outstanding, failed = self._next - self._finished, self.errors.total()
            observe(Progress(max(0, now - self._start) / 1e9, self._next, outstanding, failed))

    def _send_due(self) -> None:
        """Send every arrival that is due by now."""
        while self._next < len(self._due):
            now, arrival = time.monotonic_ns(), self._next
            due = self._start + self._due[arrival]
            if due > now:
                self._alarm.set(due)
                return
            self._next += 1
            self._sent[arrival] = now
            connection = self._fresh(now)
            if connection is None:
                self._waiting.append(arrival)
                self._open_one()
            else:
                self._send(connection, arrival)

    def _fresh(self, now: int) -> Connection | None:
        """An idle connection; if the one used last has idled for long, then so have all."""
        if self._idle and now - self._idle[-1].idle_since_ns > MAX_IDLE_NS:
            for connection in self._idle:
                connection.close()
            self._idle.clear()
        return self._idle.pop() if self._idle else None

    def _send(self, connection: Connection, arrival: int) -> None:
        self._busy.add(connection)
        connection.send(self._target.requests[arrival % len(self._target.requests)], arrival)

    def _open_one(self) -> None:
        if len(self._busy) + len(self._idle) + len(self._opening) >= self._limits.connections:
            return
        task = asyncio.get_running_loop().create_task(self._open())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(self._answered, self._lost), self._target.host, self._target.port
            )
        except OSError as error:
            if self._waiting:
                self._waiting.popleft()
                self._fail(f"no connection: {os.strerror(error.errno) if error.errno else error}")
            return
        self._ready(connection)

    def _ready(self, connection: Connection) -> None:
        """A connection has nothing to do: hand it what waits longest."""
        self._busy.discard(connection)
        connection.arrival, connection.idle_since_ns = -1, time.monotonic_ns()
        if not connection.is_kept:
            connection.close()
            self._replace()
        elif self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _replace(self) -> None:
        """A connection went: what waits for one needs another."""
        if len(self._waiting) > len(self._opening):
            self._open_one()

    def _answered(self, connection: Connection, status: int, body: bytes, header_length: int | None) -> None:
        arrival, now = connection.arrival, time.monotonic_ns()
        if arrival < 0:
            return  # an answer to nothing: the connection is idle, and closing it is up to the server
        if status != 200:
            self._fail(f"status {status}")
        elif not self._is_right(arrival, body, header_length):
            self._fail("wrong answer")
        else:
            self._done[arrival] = now
            self._finish()
        self._ready(connection)

    def _is_right(self, arrival: int, body: bytes, header_length: int | None) -> bool:
        expected = self._target.answers[arrival % len(self._target.answers)]
        try:
            answer = read_answer(body, header_length)
        except (ValueError, KeyError, IndexError, TypeError):
            return False
        return answer.shape == expected.shape and bool(np.abs(answer - expected).max() <= TOLERANCE)

    def _lost(self, connection: Connection) -> None:
        self._busy.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if connection.arrival >= 0:
            self._fail("connection lost")
            connection.arrival = -1
        self._replace()

    def _give_up(self, before: int) -> None:
        """Fail what was due before that time and has no answer."""
        kind = f"no answer within {self._limits.timeout_s:g} s"
        while self._waiting and self._start + self._due[self._waiting[0]] < before:
            self._waiting.popleft()
            self._fail(kind)
        for connection in [c for c in self._busy if self._start + self._due[c.arrival] < before]:
            self._busy.discard(connection)
            connection.close()
            self._fail(kind)
            self._replace()

    def _broke(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._fault = self._fault or context.get("exception") or RuntimeError(context["message"])
        self._over.set()

    def _fail(self, kind: str) -> None:
        self.errors[kind] += 1
        self._finish()

    def _finish(self) -> None:
        self._finished += 1
        if self._finished == len(self._due):
            self._over.set()
