"""Which integers one network gets: ranges read in several ways, and nodes that are better left in float32.

Ranges first: each way is tried, and the one that answers like float32 most often is taken, of equals the one with the
highest SQNR. Where the gate refuses it all the same, the nodes that do most damage stay in float32: the worst one, the
worst two, four, and so on, up to half of them, until the gate accepts. Each of these three steps ends `SECONDS` after
it began, with what it has by then. The search reads no label but through the gate, and validation images alone: what it
chooses is therefore a little better there than elsewhere, and test scores are what one should quote.

Tried and left out, since they did not help where channels have weights' scales of their own: docs/lab-notes.md.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.deployment import gate
from pipeline.deployment.judge import Judge, Judged
from pipeline.deployment.quantize import WAYS, Quantizer
from pipeline.evaluation import metrics
from pipeline.settings.deployment import Quantize

SECONDS = 300.0
"""After so many no further trial of a step starts. A step is not to take the time of the next one."""

Candidate = TypeVar("Candidate")


@dataclass(frozen=True)
class Trial:
    """One network in integers, and how often it answers like float32 on some of the validation split."""

    ranges: str
    in_float32: int
    """Nodes."""
    agreement: float
    """Percent of images."""
    sqnr_db: float | None

    def rank(self) -> tuple[float, float]:
        """To be compared: the larger, the better."""
        return self.agreement, float("inf") if self.sqnr_db is None else self.sqnr_db

    def __str__(self) -> str:
        left = f", {self.in_float32} nodes in float32" if self.in_float32 else ""
        noise = "no noise" if self.sqnr_db is None else f"{self.sqnr_db:.1f} dB"
        return f"{self.ranges}{left}: {self.agreement:.2f} % of the answers are float32's, {noise}"


class Search:
    """A search for one network, to be run once.

    Attributes:
        way: the one of `quantize.WAYS` that was taken; None where nothing was searched for.
        trials: all of them, in order.
        nodes: what each node does alone, as `gate.damage` says, of as many as there was time for; empty unless the
            gate refused the best ranges.
    """

    def __init__(self, judge: Judge, clock: Callable[[], float] = time.monotonic) -> None:
        self._judge, self._clock = judge, clock
        self._some = torch.from_numpy(gate.spread(len(judge.val)))
        self.way: str | None = None
        self.trials: list[Trial] = []
        self.nodes: list[dict[str, Any]] = []

    def run(self, model: onnx.ModelProto, batches: Sequence[NDArray[np.uint8]], settings: Quantize) -> Judged:
        """The network in integers that was found. With another method than `auto`, no node stays in float32."""
        self.way = settings.way  # should the first trial fail
        quantizer, made = self._ranges(model, batches, settings)
        self.way = quantizer.way
        judged = self._judge.judge(made)
        if not judged.verdict.accepted:
            print(f"The gate refuses it: each of {len(quantizer.nodes)} nodes is quantised alone to rank them.")
            nodes = self._in_time(quantizer.nodes.items(), "Ranking the nodes")
            self.nodes = gate.damage(quantizer, nodes, self._judge.on_val, self._judge.val, self._judge.batch_size)
            if settings.method == "auto":
                judged = self._mended(quantizer, judged)
        return judged

    def to_dict(self) -> list[dict[str, Any]]:
        """The trials as plain JSON data, in order."""
        return [asdict(trial) for trial in self.trials]

    def _ranges(
        self, model: onnx.ModelProto, batches: Sequence[NDArray[np.uint8]], settings: Quantize
    ) -> tuple[Quantizer, onnx.ModelProto]:
        found: tuple[Trial, Quantizer, onnx.ModelProto] | None = None
        for way in self._in_time(WAYS if settings.method == "auto" else [settings.method], "Trying ranges"):
            quantizer = Quantizer(model, batches, way, settings.reduce_range)
            made = quantizer.model()
            logits = gate.predict(made, self._judge.val, self._judge.batch_size, self._some.numpy())
            trial = self._note(way, 0, logits)
            if found is None or trial.rank() > found[0].rank():
                found = trial, quantizer, made
        assert found is not None, "the first way is tried whatever the time"
        return found[1], found[2]

    def _mended(self, quantizer: Quantizer, judged: Judged) -> Judged:
        """With as few nodes in float32 as the gate asks for; what came in where even half of them are not enough."""
        noisy = [node["node"] for node in self.nodes if node["sqnr_db"] is not None]
        counts = [2**power for power in range(len(noisy).bit_length()) if 2**power <= len(noisy) / 2]
        for count in self._in_time(counts, "Leaving nodes in float32"):
            again = self._judge.judge(quantizer.model(in_float32=noisy[:count]))
            assert again.on_val is not None, "a network that was made has answers"
            self._note(quantizer.way, count, again.on_val[self._some])
            if again.verdict.accepted:
                return again
        return judged

    def _note(self, ranges: str, in_float32: int, logits: Tensor) -> Trial:
        """Keep and print what logits on some of the validation split say of a network."""
        expected = self._judge.on_val[self._some]
        # Logits that are no numbers agree with nothing.
        agreement = metrics.agreement(logits, expected)["top1_agreement"] if logits.isfinite().all() else 0.0
        trial = Trial(ranges, in_float32, agreement, gate.sqnr_db(expected, logits))
        self.trials.append(trial)
        print(f"int8 by {trial}")
        return trial

    def _in_time(self, candidates: Iterable[Candidate], what: str) -> Iterator[Candidate]:
        """Those that can be begun in time; the first one whatever the time."""
        started = self._clock()
        for number, candidate in enumerate(candidates):
            if number > 0 and self._clock() - started > SECONDS:
                print(f"{what} has taken {SECONDS:.0f} s and ends with what there is so far.")
                return
            yield candidate
