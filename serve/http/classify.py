"""POST /classify: an image file as the body, its best labels as the answer. For people, for curl, for the demo page.

    curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' 'http://127.0.0.1:8000/classify?model=student&top=5'
    {"model": "student", "top": [{"label": "cat", "probability": 0.91}, ...],
     "milliseconds": {"decode": 1.9, "infer": 0.6}}

`decode` is the image file to pixels, `infer` from the queue in front of the model to its answer.
"""

import asyncio
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request

from serve.errors import ClientLeft, DeadlineExceeded, InputError, Overloaded
from serve.http.batching import Batcher, IsLeft, never
from serve.http.gate import MODEL
from serve.http.repository import Repository
from serve.machine import num_cores
from serve.model.classifier import Pixels
from serve.model.decode import decode

DEFAULT_TOP = 5
MAX_RUNNING = 4  # image files decoded at once, 500 MB each at the worst (decode.MAX_PIXELS)
MAX_WAITING = 64  # image files that wait to be decoded; each is held in memory as it came
_LEFT = "The connection closed while its image waited."


@dataclass(frozen=True)
class Asked:
    """What the request line and the headers ask for."""

    batcher: Batcher  # of the model
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
    repository: Repository = request.app.state.repository
    models = repository.batchers
    name = values.get("model", repository.names[0])  # whatever is unloaded, so that answers never change their model
    if name not in models:
        raise HTTPException(404, f"There is no model {name[:60]!r} here, only {', '.join(models) or 'none at all'}.")
    request.scope[MODEL] = name
    top = values.get("top", str(DEFAULT_TOP))
    if not (top.isascii() and top.isdecimal() and len(top) < 10 and int(top) > 0):
        raise InputError(f"'top' must be a number of labels from 1 on, not {top[:60]!r}.")
    return Asked(models[name], int(top))


class Decoder:
    """Decodes in threads of its own, a few images at a time; as many bodies wait as are worth their memory."""

    def __init__(self, max_running: int = MAX_RUNNING, max_waiting: int = MAX_WAITING) -> None:
        num_threads = min(max_running, num_cores())
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
        self._max_inside = num_threads + max_waiting
        self._max_waiting = max_waiting
        self._inside: dict[asyncio.Future[Pixels], IsLeft] = {}  # running and waiting

    async def __call__(
        self,
        data: bytes,
        image_px: int,
        resize_px: int,
        cut_px: int | None = None,
        limit_s: float = math.inf,
        is_left: IsLeft = never,
    ) -> Pixels:
        """(image_px, image_px, 3) of an image file, as `decode` makes them.

        limit_s  seconds from now on after which nobody wants it; what has not begun by then never does
        is_left  has the client gone, so that nothing need be decoded?

        Raises ImageError, Overloaded, TimeoutError, ClientLeft.
        """
        if len(self._inside) >= self._max_inside:
            for other, has_left in self._inside.items():
                if has_left():
                    other.cancel()  # which begins no more; one that runs ends by itself
        if sum(not other.done() for other in self._inside) >= self._max_inside:
            raise Overloaded(f"{self._max_waiting} images wait already to be decoded; try again later.")
        loop = asyncio.get_running_loop()
        held = [data]  # a job that is cancelled lies in the pool until a thread comes to it, but its image need not
        future = loop.run_in_executor(self._threads, _decode_for, is_left, held, image_px, resize_px, cut_px)
        self._inside[future] = is_left
        try:
            await asyncio.wait([future], timeout=None if limit_s == math.inf else limit_s)
            if not future.done():
                raise TimeoutError
            if future.cancelled():
                raise ClientLeft(_LEFT)
            return future.result()
        finally:
            del self._inside[future]
            future.cancel()
            held.clear()


def _decode_for(is_left: IsLeft, held: list[bytes], image_px: int, resize_px: int, cut_px: int | None) -> Pixels:
    if is_left():
        raise ClientLeft(_LEFT)
    return decode(held.pop(), image_px, resize_px, cut_px)


async def answer(decoder: Decoder, asked: Asked, data: bytes, is_left: IsLeft = never) -> dict[str, Any]:
    """The best labels for an image file. Raises ImageError, Overloaded, DeadlineExceeded, ClientLeft.

    is_left  has the client gone, so that nothing need be computed?
    """
    batcher = asked.batcher
    card, limit_ms = batcher.model.card, batcher.settings.deadline_ms
    started = time.perf_counter()
    try:
        pixels = await decoder(data, card.image_px, card.resize_px, card.cut_px, limit_ms / 1000, is_left)
    except TimeoutError:
        raise DeadlineExceeded(f"The image was not decoded within {limit_ms:g} ms; try again later.") from None
    decode_ms = 1000 * (time.perf_counter() - started)
    left_ms = max(0.0, limit_ms - decode_ms)
    probabilities, _ = await batcher(pixels[None], left_ms, is_left)
    infer_ms = 1000 * (time.perf_counter() - started) - decode_ms
    best = np.argsort(-probabilities[0], kind="stable")[: asked.top]
    return {
        "model": card.name,
        "top": [{"label": card.labels[k], "probability": float(probabilities[0, k])} for k in best],
        "milliseconds": {"decode": round(decode_ms, 3), "infer": round(infer_ms, 3)},
    }
