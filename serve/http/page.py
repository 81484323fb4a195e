"""The page at /, and what it shows: the cards of the models, and a few samples of a prepared split.

    GET /                   the page; /static/... what it is made of
    GET /models             the models' cards and the sizes of their files
    GET /samples            the samples' addresses and true labels
    GET /samples/N.png      one of them

All of it is read at the start and held in memory, so that no path from a request touches the file system.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve.errors import ServeError
from serve.http import protocol
from serve.http.repository import Repository
from serve.model.classifier import OnnxClassifier

NUM_SAMPLES = 24
SEED = 0
STATIC = Path(__file__).parent / "static"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/static/demo.css": ("demo.css", "text/css; charset=utf-8"),
    "/static/demo.js": ("demo.js", "text/javascript; charset=utf-8"),
    "/static/icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = {
    # Nothing from elsewhere, nothing inline; blob: is the picture a person has chosen.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # another model may be served here tomorrow
}


@dataclass(frozen=True)
class Sample:
    """An image of the data set."""

    png: bytes
    label: str  # the true one


def routes(repository: Repository, samples: Sequence[Sample] = ()) -> list[Route]:
    """The page's routes."""
    by_index = {str(index): sample for index, sample in enumerate(samples)}
    listed = [{"url": f"/samples/{index}.png", "label": sample.label} for index, sample in by_index.items()]

    async def one_sample(request: Request) -> Response:
        index: str = request.path_params["index"]
        if index not in by_index:
            raise HTTPException(404, f"There is no sample {index:.40}; there are {len(samples)}, counted from 0.")
        return Response(by_index[index].png, headers=HEADERS, media_type="image/png")

    async def models(request: Request) -> Response:
        content = protocol.write({"models": [_card(model) for model in repository.models.values()]})
        return Response(content, headers=HEADERS, media_type="application/json")

    return [
        *(_fixed(path, (STATIC / name).read_bytes(), kind) for path, (name, kind) in FILES.items()),
        Route("/models", models),
        _fixed("/samples", protocol.write({"samples": listed}), "application/json"),
        Route("/samples/{index}.png", one_sample),
    ]


def load_samples(folder: Path, labels: tuple[str, ...]) -> list[Sample]:
    """NUM_SAMPLES images of a prepared split such as data/prepared/test, chosen by SEED.

    `labels` are the models': the data set must have the same, or its true labels would mean nothing beside their
    answers. Raises ServeError.
    """
    try:
        card = json.loads((folder.parent / "card.json").read_bytes())
        images: npt.NDArray[np.uint8] = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        numbers: npt.NDArray[np.int64] = np.load(folder / "labels.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ServeError(
            f"{folder} is no prepared split ({error}); expected images.npy and labels.npy there and card.json beside "
            "it, as `dvc repro prepare` writes them to data/prepared/test."
        ) from error
    if not isinstance(card, dict) or card.get("labels") != list(labels):
        raise ServeError(f"{folder} is of another data set: its card lists other labels than the first model's.")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or len(images) == 0:
        raise ServeError(f"{folder / 'images.npy'} is {images.dtype} {images.shape}, expected uint8 (N, H, W, 3).")
    if numbers.dtype != np.int64 or numbers.shape != images.shape[:1]:
        raise ServeError(
            f"{folder / 'labels.npy'} is {numbers.dtype} {numbers.shape}, expected int64 ({len(images)},)."
        )
    chosen = np.random.default_rng(SEED).choice(len(images), min(NUM_SAMPLES, len(images)), replace=False)
    if not ((numbers[chosen] >= 0) & (numbers[chosen] < len(labels))).all():
        raise ServeError(f"{folder / 'labels.npy'} holds class numbers outside of 0..{len(labels) - 1}.")
    return [Sample(_png(images[index]), labels[numbers[index]]) for index in chosen]


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(file, "PNG")
    return file.getvalue()


def _card(model: OnnxClassifier) -> dict[str, Any]:
    card = model.card
    return {
        "name": card.name,
        "arch": card.arch,
        "method": card.method,
        "num_labels": len(card.labels),
        "image_px": card.image_px,
        "num_parameters": card.num_parameters,
        "macs": card.macs,
        "file_bytes": model.file_bytes,
        "metrics": dict(card.metrics),
    }


def _fixed(path: str, content: bytes, kind: str) -> Route:
    async def respond(request: Request) -> Response:
        return Response(content, headers=HEADERS | {"Content-Type": kind})

    return Route(path, respond)
