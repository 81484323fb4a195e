"""Requests of one model gathered into batches. Every request has a slot of its own, so answers are never mixed.

A batch starts as soon as a thread is free and

    nothing of this model is being computed (a lone request never waits), or
    the waiting requests fill a batch, or
    the oldest of them has waited max_delay_ms;

while all threads are busy, requests gather by themselves. State is touched on the event loop alone; threads only take
batches and hand answers back.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np

from serve.errors import ClientLeft, DeadlineExceeded, ModelError, Overloaded, TooLarge
from serve.http.metrics import ModelMetrics
from serve.model import batch_sizes
from serve.model.classifier import Floats, OnnxClassifier, Pixels

Answer = tuple[Floats, Floats]
"""(n, K) probabilities and (n, K) logits, float32."""

IsLeft = Callable[[], bool]
"""Has the client gone? Asked before work is begun, from any thread."""


def never() -> bool:
    """An `IsLeft` for those who stay."""
    return False


@dataclass(frozen=True)
class Batching:
    """How requests are gathered, and when they are turned away."""

    max_batch: int = 32  # images computed in one call of the model
    max_delay_ms: float = 1.0  # a request waits no longer for company if a thread is free
    max_images: int = 256  # in one request; more than max_batch are computed in several calls
    max_queue: int = 512  # images that wait; a request beyond them is turned away
    deadline_ms: float = 5000.0  # from arrival to answer
    num_threads: int = 1  # batches computed at once


@dataclass(eq=False)
class _Slot:
    pixels: Pixels
    arrived: float  # by the clock of the event loop
    answer: "asyncio.Future[Answer]"
    is_left: IsLeft
    is_waiting: bool = True

    def leave(self) -> None:
        """Wake who waits for the answer of a client that has gone."""
        if not self.answer.done():
            self.answer.set_exception(ClientLeft("The connection closed while its request waited."))


@dataclass
class _Batch:
    loop: asyncio.AbstractEventLoop
    slots: list[_Slot] = field(default_factory=list)
    num_images: int = 0


class Batcher:
    """A model as an awaitable function of one request; to be called on one event loop at a time."""

    def __init__(self, model: OnnxClassifier, settings: Batching, metrics: ModelMetrics) -> None:
        self.model = model
        self.settings = settings
        self._metrics = metrics
        self._image_shape = (model.card.image_px, model.card.image_px, 3)
        self._waiting: deque[_Slot] = deque()
        self.num_waiting = 0
        """Images in the queue."""
        self._num_running = 0  # batches
        self._is_retired = False
        self._timer: asyncio.TimerHandle | None = None
        self._jobs: SimpleQueue[_Batch | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    async def __call__(self, pixels: Pixels, deadline_ms: float | None = None, is_left: IsLeft = never) -> Answer:
        """(n, H, W, 3) uint8 pixels -> (n, K) probabilities and (n, K) logits.

        deadline_ms  shortens the deadline of the settings
        is_left      asked when a batch is put together: has the client gone, so that nothing need be computed?

        Raises InputError for pixels the model does not take, TooLarge for too many, Overloaded if the queue is full,
        DeadlineExceeded if the answer is late, ClientLeft. A caller that is cancelled gives its slot back.
        """
        settings = self.settings
        if pixels.dtype != np.uint8 or pixels.shape[1:] != self._image_shape or len(pixels) == 0:
            return self.model.outputs(pixels)  # refuses them in its own words
        if len(pixels) > settings.max_images:
            raise TooLarge(f"{len(pixels)} images are more than the {settings.max_images} of one request; send fewer.")
        if self._is_full_for(len(pixels)):
            for slot in [slot for slot in self._waiting if slot.is_left()]:
                self._remove(slot)
                slot.leave()
        if self._is_full_for(len(pixels)):
            raise Overloaded(f"{self.num_waiting} images wait already, which is as many as may; try again later.")
        loop = asyncio.get_running_loop()
        slot = _Slot(pixels, loop.time(), loop.create_future(), is_left)
        self._waiting.append(slot)
        self.num_waiting += len(pixels)
        limit_ms = settings.deadline_ms if deadline_ms is None else min(deadline_ms, settings.deadline_ms)
        expiry = loop.call_later(limit_ms / 1000, _expire, slot, limit_ms)
        self._dispatch()
        try:
            return await slot.answer
        finally:
            expiry.cancel()
            if slot.is_waiting:
                self._remove(slot)
                self._metrics.queue_images.set(self.num_waiting)

    def warm_up(self) -> None:
        """Compute some batch sizes once: the first call of a size plans its memory, and on a GPU picks its kernels.

        All of them would be a number of images that grows as the square of max_batch. Raises ModelError if the model
        cannot compute one.
        """
        for size in batch_sizes.typical(self.settings.max_batch):
            try:
                self.model.outputs(np.zeros((size, *self._image_shape), dtype=np.uint8))
            except Exception as error:  # ONNX Runtime's errors share no base class below Exception
                raise ModelError(
                    f"{self.model.card.name} cannot compute a batch of {size} ({' '.join(str(error).split())}); "
                    "try a smaller --max-batch."
                ) from error

    def retire(self) -> None:
        """End the threads as soon as all that has come is answered. What comes still is answered too."""
        self._is_retired = True
        if not self._waiting and self._num_running == 0:
            self._end_threads()

    async def close(self) -> None:
        """End the threads once what they compute is answered."""
        for thread in self._end_threads():
            await asyncio.to_thread(thread.join)

    def _end_threads(self) -> list[threading.Thread]:
        threads, self._threads = self._threads, []
        for _ in threads:
            self._jobs.put(None)
        return threads

    def _is_full_for(self, num_images: int) -> bool:
        return len(self._waiting) > 0 and self.num_waiting + num_images > self.settings.max_queue

    def _remove(self, slot: _Slot) -> None:
        self._waiting.remove(slot)
        self.num_waiting -= len(slot.pixels)
        slot.is_waiting = False

    def _dispatch(self) -> None:
        """Start what may start now, and see to it that somebody looks again when more may."""
        settings = self.settings
        while self._waiting and self._num_running < settings.num_threads:
            if self._num_running > 0 and self.num_waiting < settings.max_batch:
                loop = asyncio.get_running_loop()
                due = self._waiting[0].arrived + settings.max_delay_ms / 1000
                if loop.time() < due:
                    if self._timer is None:
                        self._timer = loop.call_at(due, self._delay_is_over)
                    break
            batch = self._gather()
            if batch.slots:
                self._start(batch)
        self._metrics.queue_images.set(self.num_waiting)

    def _delay_is_over(self) -> None:
        self._timer = None
        self._dispatch()

    def _gather(self) -> _Batch:
        """The oldest requests that fit into one batch; the first one however large, none of clients that left."""
        batch = _Batch(asyncio.get_running_loop())
        while self._waiting:
            slot = self._waiting[0]
            num_images = len(slot.pixels)
            if batch.slots and batch.num_images + num_images > self.settings.max_batch:
                break
            self._waiting.popleft()
            self.num_waiting -= num_images
            slot.is_waiting = False
            if slot.answer.done():
                continue
            if slot.is_left():
                slot.leave()
                continue
            self._metrics.queue_seconds.observe(batch.loop.time() - slot.arrived)
            batch.slots.append(slot)
            batch.num_images += num_images
        return batch

    def _start(self, batch: _Batch) -> None:
        self._num_running += 1
        self._metrics.batch_images.observe(batch.num_images)
        while len(self._threads) < self.settings.num_threads:
            self._threads.append(threading.Thread(target=self._work, name=self.model.card.name, daemon=True))
            self._threads[-1].start()
        self._jobs.put(batch)

    def _work(self) -> None:
        while (batch := self._jobs.get()) is not None:
            started = time.perf_counter()
            try:
                outcome: Answer | Exception = self._compute(batch)
            except Exception as error:  # handed to those who asked, who are all this failure concerns
                outcome = error
            self._metrics.compute_seconds.observe(time.perf_counter() - started)
            batch.loop.call_soon_threadsafe(self._finish, batch, outcome)

    def _compute(self, batch: _Batch) -> Answer:
        first = batch.slots[0].pixels
        pixels = first if len(batch.slots) == 1 else np.concatenate([slot.pixels for slot in batch.slots])
        step = self.settings.max_batch
        if len(pixels) <= step:
            return self.model.outputs(pixels)
        parts = [self.model.outputs(pixels[start : start + step]) for start in range(0, len(pixels), step)]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def _finish(self, batch: _Batch, outcome: Answer | Exception) -> None:
        self._num_running -= 1
        start = 0
        for slot in batch.slots:
            stop = start + len(slot.pixels)
            if slot.answer.done():  # left, or too late: its rows go to nobody
                pass
            elif isinstance(outcome, Exception):
                slot.answer.set_exception(outcome)
            else:
                slot.answer.set_result((outcome[0][start:stop], outcome[1][start:stop]))
            start = stop
        self._dispatch()
        if self._is_retired:
            self.retire()


def _expire(slot: _Slot, limit_ms: float) -> None:
    if not slot.answer.done():
        slot.answer.set_exception(DeadlineExceeded(f"There was no answer within {limit_ms:g} ms; try again later."))
