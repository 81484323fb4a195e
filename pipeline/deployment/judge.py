"""What is known of the student in float32, against which every smaller file of it is held: verdicts and scores."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.arrays import Split
from pipeline.data.card import DataCard
from pipeline.deployment import gate
from pipeline.evaluation import metrics
from pipeline.evaluation.comparison import Bootstrap

_NOT_SCORED: dict[str, Any] = {"val": None, "test": None, "against_teacher": None}


@dataclass(frozen=True)
class Judged:
    """A smaller network and what the gate says of it."""

    network: onnx.ModelProto | None
    """None where it could not be made."""
    verdict: gate.Verdict
    on_val: Tensor | None
    """logits (N, K) on the validation split."""


class Judge:
    """Of one exported student.

    Args:
        float32: the student as exported.
        data: folder of prepared images, with its `card`.
        image_px: size of the images that the student takes.
        max_drop: points of validation top-1 that a smaller one may lose.
        teacher: its answers (N,) on the test split, as class numbers.
        bootstrap: of the difference to the teacher.

    Attributes:
        train, val: splits.
        batch_size: of predictions.
        on_val: logits (N, K) of float32 on the validation split.
    """

    def __init__(
        self,
        float32: onnx.ModelProto,
        data: Path,
        card: DataCard,
        image_px: int,
        max_drop: float,
        teacher: NDArray[np.int64],
        bootstrap: Bootstrap,
    ) -> None:
        self.batch_size, self._seen = metrics.batch_size(image_px), card.train_includes_val
        self.train, self.val, self._test = (Split.load(data, name, card, image_px) for name in ("train", "val", "test"))
        self._max_drop, self._taught, self._bootstrap = max_drop, teacher == self._test.labels, bootstrap
        self.on_val, self._on_test = (gate.predict(float32, split, self.batch_size) for split in (self.val, self._test))
        # Without those of val that stand behind them: the search chose the ranges by these.
        own = len(self.train) - (len(self.val) if self._seen else 0)
        self._on_train = gate.on_train(float32, self.train, own, self.batch_size)

    def judge(self, network: onnx.ModelProto) -> Judged:
        """The verdict on a network."""
        on_val = gate.predict(network, self.val, self.batch_size)
        labels, on_train = _labels(self.val), partial(self._on_train, network)
        verdict = gate.decide(self.on_val, on_val, labels, self._max_drop, on_train, self._seen)
        return Judged(network, verdict, on_val)

    def float32_scores(self) -> dict[str, Any]:
        """As `scores`, of float32 itself."""
        return self._scores(self.on_val, self._on_test)

    def scores(self, judged: Judged) -> dict[str, Any]:
        """On val and test as `gate.scores`, and test top-1 against the teacher's; each None where there are none."""
        if judged.network is None or judged.on_val is None or judged.verdict.drop_points is None:
            return _NOT_SCORED
        return self._scores(judged.on_val, gate.predict(judged.network, self._test, self.batch_size))

    def _scores(self, on_val: Tensor, on_test: Tensor) -> dict[str, Any]:
        right = on_test.argmax(1).numpy() == self._test.labels
        return {
            "val": gate.scores(on_val, self.on_val, _labels(self.val)),
            "test": gate.scores(on_test, self._on_test, _labels(self._test)),
            "against_teacher": self._bootstrap.difference(right, self._taught),
        }


def made(make: Callable[[], Judged]) -> Judged:
    """What `make` returns; where the network cannot be made or run, a refusal that says why.

    Nothing that is optional stops the pipeline: other students are judged all the same.
    """
    try:
        return make()
    except Exception as error:  # converters and ONNX Runtime raise kinds of their own, and plain ones
        why = " ".join([f"{type(error).__name__}:", *str(error).splitlines()[:1]])
        return Judged(None, gate.Verdict(False, f"refused: it could not be made or run ({why})", None), None)


def _labels(split: Split) -> Tensor:
    return torch.from_numpy(np.array(split.labels))
