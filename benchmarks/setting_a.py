"""The teacher of setting (a), a ResNet-56 with published weights, over one student: what its benchmarks share."""

from pathlib import Path
from typing import Any

STATISTICS = {"mean": [0.491373, 0.482353, 0.446667], "std": [0.247059, 0.243529, 0.261569]}
"""With which the published weights were trained."""


def taught(
    settings: dict[str, Any], weights: Path, student: dict[str, Any], method: str, **train: Any
) -> dict[str, Any]:
    """The whole params.yaml `settings` with this teacher, this section `student`, and one method.

    `train` changes settings of distill.train.
    """
    settings["teacher"] |= {"arch": "resnet56", "weights": str(weights.resolve()), "normalization": STATISTICS}
    settings["student"] = student
    settings["distill"]["train"] |= train
    settings["distill"]["methods"] = {method: settings["distill"]["methods"][method]}
    return settings | {"deploy": settings["deploy"] | {"method": method, "seed": 0}}
