"""Which student is deployed: the one that params.yaml names, or the best of several on the validation split.

A student's score is that of the epoch that its training kept. The test split is not looked at.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.settings.deployment import Deploy
from pipeline.settings.networks import Distill
from pipeline.settings.section import BEST
from pipeline.system.errors import PupilError


@dataclass(frozen=True)
class Choice:
    """A student, and what it was chosen from; a student that params.yaml names is chosen from one."""

    method: str
    seed: int
    val_top1: float
    """Percent."""
    of_methods: int
    of_seeds: int
    val_seen_in_training: bool = False
    """The validation images were trained on, so that its score on them is none on new images."""


def choose(students: Path, deploy: Deploy, distill: Distill) -> Choice:
    """The student with the highest validation top-1; of equal ones the first by method's name, then by seed.

    Where `deploy` names a method or a seed, only students of it count. `students` holds METHOD/SEED/history.json.
    Raises PupilError naming the first history that is missing or torn, and the stage that writes it.
    """
    methods = sorted(distill.methods) if deploy.method == BEST else [deploy.method]
    seeds = sorted(distill.seeds) if deploy.seed == BEST else [deploy.seed]
    scores = {(method, seed): _validation(students, method, seed) for method in methods for seed in seeds}
    # max() keeps the first of equal ones.
    method, seed = max(scores, key=lambda place: scores[place][0])
    top1, seen = scores[method, seed]
    return Choice(method, seed, top1, len(methods), len(seeds), seen)


def _validation(students: Path, method: str, seed: int) -> tuple[float, bool]:
    """Top-1 of the epoch that was kept, and whether its images were trained on."""
    path = students / method / str(seed) / "history.json"
    try:
        history = json.loads(path.read_text(encoding="utf-8"))
        (score,) = [it["val"]["top1"] for it in history["epochs"] if it["epoch"] == history["shipped_epoch"]]
        return float(score), bool(history["val_seen_in_training"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PupilError(
            f"{path} should say by 'epochs', 'shipped_epoch' and 'val_seen_in_training' which validation top-1 the "
            f"student has, but could not be read so ({type(error).__name__}: {error}). "
            f"Run `dvc repro distill@{method}-{seed}`."
        ) from error
