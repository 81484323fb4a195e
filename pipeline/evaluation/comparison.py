"""How sure a difference between networks is that were asked the same images.

    accuracy = right / N              interval: percentile bootstrap over images; by class: Wilson's
    difference = (b - c) / N          b, c: images that this network alone, the other alone gets right
    p = P(|B - (b + c) / 2| >= |b - c| / 2), B ~ Binomial(b + c, 1/2): McNemar's test, exact and two-sided

Resampling N images with replacement draws how often each *kind* of image comes, by a multinomial: images on which the
networks are right and wrong alike cannot be told apart. That is the bootstrap itself, not an approximation of it, and
takes milliseconds. Over several seeds, seeds and images are drawn anew, each on its own, as every seed meets the same
images.

Efron, "Better Bootstrap Confidence Intervals", JASA 1987. Owen, "The pigeonhole bootstrap", Annals of Applied
Statistics 2007. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
Psychometrika 1947. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest  # type: ignore[import-untyped]

LEVEL = 0.95
"""Of every interval."""
Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
"""Standard deviations to each side that an interval of a normal distribution takes."""
BASELINE = "vanilla"
"""The method that has no teacher."""
TIE_POINTS = 0.5
"""Differences of top-1 below this are ties, whatever their interval: two seeds of a method often differ by as much."""
TEACHER = "teacher"

Right = NDArray[np.bool_]
"""(N,) whether a network is right, image by image."""


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn: from `resamples` samples, by `seed`."""

    resamples: int
    seed: int

    def interval(self, values: NDArray[np.integer[Any]]) -> list[float]:
        """[low, high] of 100 times the mean of (N, S) values, one row an image, one column a seed."""
        images, seeds = values.shape
        kinds, counts = np.unique(values, axis=0, return_counts=True)
        generator = np.random.default_rng(self.seed)
        means = generator.multinomial(images, counts / images, self.resamples) @ kinds / images
        weights = generator.multinomial(seeds, np.full(seeds, 1 / seeds), self.resamples) / seeds
        tails = (1 - LEVEL) / 2
        low, high = np.quantile(100 * (means * weights).sum(1), (tails, 1 - tails))
        return [float(low), float(high)]

    def difference(self, right: Right, other: Right) -> dict[str, Any]:
        """How far one network's accuracy lies above another's on the same images, and [low, high], in points."""
        return _difference([right.astype(np.int8) - other], self)

    def accuracy(self, right: Right) -> list[float]:
        """[low, high] of the accuracy in percent."""
        return self.interval(right[:, None].astype(np.int8))


def wilson(right: int, images: int) -> list[float] | None:
    """[low, high] of the accuracy in percent, which few images allow too; None without any."""
    if images == 0:
        return None
    low, high = binomtest(right, images).proportion_ci(LEVEL, "wilson")
    return [100 * float(low), 100 * float(high)]


def mcnemar(only_this: int, only_other: int) -> float:
    """Probability of a difference at least as large between two networks of the same accuracy, in (0, 1]."""
    discordant = only_this + only_other
    return float(binomtest(only_this, discordant).pvalue) if discordant else 1.0


def compare(right: Mapping[str, Mapping[int, Right]], teacher: Right, bootstrap: Bootstrap) -> dict[str, Any]:
    """Every method and seed against the baseline of the same seed and against the teacher, then over all seeds.

    `right`: by method and seed. Differences and intervals are in points, positive where the first one is better.
    """
    pairs, methods = [], []
    for method, runs in right.items():
        for against, others in (
            (BASELINE, right.get(BASELINE, {}) if method != BASELINE else {}),
            (TEACHER, dict.fromkeys(runs, teacher)),
        ):
            seeds = [seed for seed in runs if seed in others]
            if not seeds:
                continue
            differences = [runs[seed].astype(np.int8) - others[seed] for seed in seeds]
            place = {"method": method, "against": against}
            for seed, difference in zip(seeds, differences, strict=True):
                pairs.append({**place, "seed": seed, **_pair(difference, bootstrap)})
            methods.append({**place, "seeds": len(seeds), **_difference(differences, bootstrap)})
    return {
        "baseline": BASELINE if BASELINE in right else None,
        "images": len(teacher),
        "resamples": bootstrap.resamples,
        "pairs": pairs,
        "methods": methods,
    }


def _pair(difference: NDArray[np.int8], bootstrap: Bootstrap) -> dict[str, Any]:
    only_this, only_other = int((difference > 0).sum()), int((difference < 0).sum())
    return {
        "only_this": only_this,
        "only_other": only_other,
        **_difference([difference], bootstrap),
        "mcnemar_p": mcnemar(only_this, only_other),
    }


def _difference(differences: Sequence[NDArray[np.int8]], bootstrap: Bootstrap) -> dict[str, Any]:
    values = np.stack(differences, axis=1)
    return {"difference": 100 * int(values.sum()) / values.size, "interval": bootstrap.interval(values)}
