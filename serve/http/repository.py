"""The models of a server, and how a new file takes the place of an old one without a lost request.

Triton's model repository extension, https://github.com/triton-inference-server/server/blob/main/docs/protocol/
extension_model_repository.md, for the files that the server was started with and no others:

    POST /v2/repository/index                which models there are, loaded or not
    POST /v2/repository/models/NAME/load     read its file again; requests are answered by the old one meanwhile
    POST /v2/repository/models/NAME/unload   answer what has come, and let it go
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from serve.errors import InputError, ServeError
from serve.http import protocol
from serve.http.batching import Batcher, Batching
from serve.http.limits import Limits
from serve.http.metrics import Metrics
from serve.model import devices, overflow
from serve.model.classifier import OnnxClassifier

_LOG = logging.getLogger("serve.http.repository")
EXTENSION = "model_repository"
PATH = "/v2/repository"
CONTROL = PATH + "/models/"
"""What changes the server begins with this."""


class Repository:
    """The models by their names, in the order of the command line.

    `batchers` holds those that are loaded, in the same order, each to be awaited for its answers.
    """

    def __init__(self, models: Mapping[str, OnnxClassifier], batching: Batching, metrics: Metrics) -> None:
        self._batching = batching
        self._metrics = metrics
        self._files = {name: (model.path, model.threads, model.device) for name, model in models.items()}
        self._why_not: dict[str, str] = {}  # a model is not loaded
        self._changing = asyncio.Lock()
        self.batchers: dict[str, Batcher] = {}
        for name, model in models.items():
            self._put(name, self._batcher(name, model))

    @property
    def names(self) -> list[str]:
        """Of all models, loaded or not."""
        return list(self._files)

    @property
    def models(self) -> dict[str, OnnxClassifier]:
        """Those that are loaded."""
        return {name: batcher.model for name, batcher in self.batchers.items()}

    def index(self, ready_only: bool) -> list[dict[str, str]]:
        """What the extension says of each model."""
        listed = []
        for name in self._files:
            is_loaded = name in self.batchers
            if is_loaded or not ready_only:
                state = "READY" if is_loaded else "UNAVAILABLE"
                reason = "" if is_loaded else self._why_not[name]
                listed.append({"name": name, "version": protocol.VERSIONS[-1], "state": state, "reason": reason})
        return listed

    async def load(self, name: str) -> None:
        """Read the file of a model again, and answer with that from then on.

        Raises ServeError if it is not usable; the model stays as it was.
        """
        async with self._changing:  # two copies of a model in memory at most
            await self._load(name)

    async def load_again(self, name: str) -> None:
        """As `load`, but what was unloaded stays so."""
        async with self._changing:
            if name in self.batchers:
                await self._load(name)

    async def unload(self, name: str) -> None:
        """Take no more requests for a model, and let it go once those that have come are answered."""
        async with self._changing:
            if name in self.batchers:
                self._why_not[name] = "unloaded"
                self._retire(self.batchers.pop(name), name)

    async def close(self) -> None:
        """End the threads of all models once what they compute is answered."""
        await asyncio.gather(*(batcher.close() for batcher in self.batchers.values()))

    async def _load(self, name: str) -> None:
        path, threads, device = self._files[name]
        model = await asyncio.to_thread(OnnxClassifier, path, threads, device)
        if model.card.name != name:
            raise ServeError(
                f"{path} was the model {name!r}, and is {model.card.name!r} now; start the server again to serve a "
                "model of another name."
            )
        batcher = self._batcher(name, model)
        await asyncio.to_thread(batcher.warm_up)
        before = self.batchers.get(name)
        if before is not None:
            self._retire(before, name)
        self._put(name, batcher)
        self._why_not.pop(name, None)

    def _batcher(self, name: str, model: OnnxClassifier) -> Batcher:
        return Batcher(model, self._batching, self._metrics.of_model(name))

    def _put(self, name: str, batcher: Batcher) -> None:
        model = batcher.model
        if model.provider == devices.CPU and (why := overflow.doubt(model.card)) is not None:
            _LOG.warning("%s %s.", model.path, why)
        loaded = self.batchers | {name: batcher}
        self.batchers = {each: loaded[each] for each in self._files if each in loaded}
        self._metrics.provider.labels(name, model.provider).set(1)

    def _retire(self, batcher: Batcher, name: str) -> None:
        batcher.retire()
        # Not removed: prometheus_client cannot remove a series that several processes share.
        self._metrics.provider.labels(name, batcher.model.provider).set(0)


def read(content: bytes, limits: Limits, *allowed: str) -> dict[str, Any]:
    """The members of a request's JSON object; no body is an empty one. Raises InputError for others than allowed."""
    request = protocol.read_object(content, limits) if content else {}
    for key in request:
        if key not in allowed:
            raise InputError(f"The body has {key[:60]!r}; it may have nothing but {' and '.join(map(repr, allowed))}.")
    return request


def read_change(content: bytes, limits: Limits) -> None:
    """Read the body of a load or unload, which can say nothing that is heeded here. Raises InputError.

    Triton takes another configuration of the model there, or the file itself. Here, nobody sends a model.
    """
    parameters = read(content, limits, "parameters").get("parameters") or {}
    if unknown := set(parameters) - {"unload_dependents"}:  # no model depends on another
        raise InputError(
            f"Parameter {min(unknown)[:60]!r} is not offered: a model is read from the file that the server was "
            "started with."
        )
