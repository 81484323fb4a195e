"""POST /classify: an image file as the body, its best labels as the answer. For people, for curl, for the demo page.

    curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' 'http://127.0.0.1:8000/classify?model=student&top=5'
    {"model": "student", "top": [{"label": "cat", "probability": 0.91}, ...],
     "milliseconds": {"decode": 1.9, "infer": 0.6}}

`decode` is the image file to pixels, `infer` from the queue in front of the model to its answer.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request

from serve.errors import DeadlineExceeded, InputError, Overloaded
from serve.http.batching import Batcher
from serve.machine import num_cores
from serve.model.classifier import Pixels
from serve.model.decode import decode

DEFAULT_TOP = 5
MAX_RUNNING = 4  # image files decoded at once, 300 MB each at the worst
MAX_WAITING = 64  # image files that wait to be decoded; each is held in memory as it came


@dataclass(frozen=True)
class Asked:
    """What the request line and the headers ask for."""

    model: str
    top: int  # labels to answer with, the best first; a model that has fewer answers with all of them


def read(request: Request) -> Asked:
    """Read what is asked for, before the body is. Raises HTTPException 404 or 415, InputError."""
    kind = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if not kind.startswith("image/") and kind != "application/octet-stream":
        raise HTTPException(
            415,
            f"Send the image itself as the body, with Content-Type image/jpeg, for example, not {kind:.60}.",
        )
    values: dict[str, str] = {}
    for key, value in request.query_params.multi_items():
        if key not in ("model", "top"):
            raise InputError(f"There is no query parameter {key[:60]!r}; there are model and top.")
        if key in values:
            raise InputError(f"The query parameter {key!r} is given more than once.")
        values[key] = value
    names = list(request.app.state.batchers)
    name = values.get("model", names[0])
    if name not in names:
        raise HTTPException(404, f"There is no model {name[:60]!r} here, only {', '.join(names)}.")
    top = values.get("top", str(DEFAULT_TOP))
    if not (top.isascii() and top.isdecimal() and len(top) < 10 and int(top) > 0):
        raise InputError(f"'top' must be a number of labels from 1 on, not {top[:60]!r}.")
    return Asked(name, int(top))


class Decoder:
    """Decodes off the event loop, a few images at a time; as many bodies wait as are worth their memory."""

    def __init__(self, max_running: int = MAX_RUNNING, max_waiting: int = MAX_WAITING) -> None:
        self._limiter = anyio.CapacityLimiter(min(max_running, num_cores()))
        self._max_waiting = max_waiting
        self._num_inside = 0  # running and waiting; not the limiter's own count, which lags behind in a burst

    async def __call__(self, data: bytes, image_px: int, resize_px: int) -> Pixels:
        """(image_px, image_px, 3) of an image file, as `decode` makes them. Raises ImageError, Overloaded."""
        if self._num_inside >= self._limiter.total_tokens + self._max_waiting:
            raise Overloaded(f"{self._max_waiting} images wait already to be decoded; try again later.")
        self._num_inside += 1
        try:
            return await anyio.to_thread.run_sync(decode, data, image_px, resize_px, limiter=self._limiter)
        finally:
            self._num_inside -= 1


async def answer(
    decoder: Decoder, batcher: Batcher, asked: Asked, data: bytes, is_left: Callable[[], bool] | None = None
) -> dict[str, Any]:
    """The best labels for an image file. Raises ImageError, Overloaded, DeadlineExceeded, ClientLeft.

    is_left  has the client gone, so that nothing need be computed?
    """
    card = batcher.model.card
    started = time.perf_counter()
    pixels = await decoder(data, card.image_px, card.resize_px)
    decode_ms = 1000 * (time.perf_counter() - started)
    left_ms = batcher.settings.deadline_ms - decode_ms
    if left_ms <= 0:
        raise DeadlineExceeded(
            f"The image was not decoded within {batcher.settings.deadline_ms:g} ms; try again later."
        )
    probabilities, _ = await batcher(pixels[None], left_ms, is_left)
    infer_ms = 1000 * (time.perf_counter() - started) - decode_ms
    best = np.argsort(-probabilities[0], kind="stable")[: asked.top]
    return {
        "model": card.name,
        "top": [{"label": card.labels[k], "probability": float(probabilities[0, k])} for k in best],
        "milliseconds": {"decode": round(decode_ms, 3), "infer": round(infer_ms, 3)},
    }
