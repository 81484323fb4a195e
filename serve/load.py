"""Load on a server as users make it: arrivals at random moments that do not wait for each other's answers.

Arrivals are Poisson from a seed and fixed before the run. Latency counts from the moment an arrival was due, not from
when there was time to send it: a server that stalls is charged with every request that came due meanwhile, none is left
out by coordination with the server. What the generator itself is late by is measured apart, and a run in which it was
late is not valid: its latencies are partly the generator's.

Gil Tene, "How NOT to Measure Latency", 2015; the Server scenario of MLPerf Inference.
"""

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

from serve.alarm import Alarm
from serve.client import TOLERANCE, Connection, Target, read_answer
from serve.latency import Samples, minimum_samples, summary

WARMUP_S = 1.0  # arrivals of the first second count as errors if they fail, but not in the latencies
MAX_LAG = 0.1  # p99 of the generator's own lateness in a valid run, as a part of the bound on the latency
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


@dataclass(frozen=True)
class Outcome:
    """What a run at one rate measured. Arrivals of the warm-up are in no samples."""

    rate: float  # asked for, arrivals/s
    seed: int
    elapsed_s: float  # from the first moment an arrival could be due to the last answer
    due: int  # arrivals
    answered: int
    latencies: Samples  # (n,) ns from due to answered
    since_sent: Samples  # (n,) ns from sent to answered
    lags: Samples  # (n,) ns from due to sent: the generator's own lateness
    errors: dict[str, int]  # kind -> arrivals that were not answered well
    generator_cpu: float  # share of one core that the generator took
    interrupted: bool
    bound_ms: float

    @property
    def invalid(self) -> str | None:
        """Why the latencies are not the server's, or carry no p99; None if they can be believed."""
        if len(self.lags) < minimum_samples(99):
            return f"only {len(self.lags)} arrivals were measured, and a p99 needs {minimum_samples(99)}"
        lag, limit = _p99_ms(self.lags), MAX_LAG * self.bound_ms
        if lag <= limit:
            return None
        return f"the generator was late itself, p99 {lag:.2f} ms, where {limit:g} ms are allowed"

    @property
    def verdict(self) -> str:
        """ "holds", "fails", or "unknown" where the generator was too late to blame the server for what it measured.

        The rate holds if every arrival is answered well and p99 is within the bound. It fails whatever the generator
        did if an arrival fails, or if p99 is beyond the bound even from when the requests were sent.
        """
        if self.errors or (len(self.since_sent) >= minimum_samples(99) and _p99_ms(self.since_sent) > self.bound_ms):
            return "fails"
        if self.invalid:
            return "unknown"
        return "holds" if _p99_ms(self.latencies) <= self.bound_ms else "fails"

    def to_dict(self) -> dict[str, object]:
        """Plain JSON data."""
        samples = {"latency": self.latencies, "latency_since_sent": self.since_sent, "generator_lag": self.lags}
        return {
            "rate": self.rate,
            "seed": self.seed,
            "elapsed_s": self.elapsed_s,
            "due": self.due,
            "answered": self.answered,
            "failed": sum(self.errors.values()),
            "errors": self.errors,
            **{name: summary(values).to_dict() if len(values) else None for name, values in samples.items()},
            "generator_cpu": self.generator_cpu,
            "verdict": self.verdict,
            "invalid": self.invalid,
            "interrupted": self.interrupted,
        }


def arrivals(rate: float, duration_s: float, seed: int) -> Samples:
    """(n,) increasing nanoseconds in [0, duration_s): a Poisson process of `rate` arrivals/s."""
    generator = np.random.default_rng(seed)
    expected = rate * duration_s
    # Six deviations beyond the mean: that too few were drawn will not happen.
    gaps = generator.exponential(1 / rate, int(expected + 6 * expected**0.5 + 36))
    times = np.cumsum(gaps)
    return (times[times < duration_s] * 1e9).astype(np.int64)


def _p99_ms(samples: Samples) -> float:
    p99 = summary(samples).p99_ms
    assert p99 is not None, "callers count first"
    return p99


def duration_for(rate: float, least_s: float) -> float:
    """Seconds a run at this rate must last to carry a p99, and `least_s` at least, warm-up included."""
    return WARMUP_S + max(least_s, 1.2 * minimum_samples(99) / rate)


async def run(
    target: Target,
    rate: float,
    duration_s: float,
    seed: int,
    limits: Limits | None = None,
    observe: Callable[[Progress], None] = lambda progress: None,
    to_first_failure: bool = False,
) -> Outcome:
    """Send `rate` arrivals/s for `duration_s` seconds, and wait for the last answer. Cancelled, it ends early.

    observe           called about once a second
    to_first_failure  end early once an arrival has failed
    """
    limits = limits or Limits()
    due = arrivals(rate, duration_s, seed)
    generator = _Run(target, due, limits)
    interrupted, cpu, began = False, time.process_time(), time.monotonic()
    try:
        await generator.whole(observe, to_first_failure)
    except asyncio.CancelledError:
        interrupted = True
    share = (time.process_time() - cpu) / (time.monotonic() - began)
    sent, answered_at, elapsed_s = generator.measured()
    due = due[: len(sent)]
    is_answered, is_warm = answered_at > 0, due >= min(WARMUP_S, duration_s / 2) * 1e9
    counted = is_answered & is_warm
    return Outcome(
        rate=rate,
        seed=seed,
        elapsed_s=elapsed_s,
        due=len(due),
        answered=int(is_answered.sum()),
        latencies=(answered_at - due)[counted],
        since_sent=(answered_at - sent)[counted],
        lags=(sent - due)[is_warm],
        errors=dict(generator.errors),
        generator_cpu=share,
        interrupted=interrupted,
        bound_ms=limits.bound_ms,
    )


class _Run:
    """One run. Arrays of machine integers, not lists: a garbage collection would go through a million numbers."""

    def __init__(self, target: Target, due: Samples, limits: Limits) -> None:
        self._target, self._limits = target, limits
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
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), 1)
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
