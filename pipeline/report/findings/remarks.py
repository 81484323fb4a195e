"""What a reader would want to be told, though no stage failed: networks that learned nothing, a better one at hand."""

import math

from pipeline.evaluation.comparison import TIE_POINTS, Z
from pipeline.report.artefacts.records import Spread
from pipeline.report.artefacts.results import Network, Results
from pipeline.report.findings.formats import count, percent


def remarks(results: Results) -> list[str]:
    """One paragraph each; none where there is nothing to say."""
    return [*_like_chance(results), *_better_on_validation(results)]


def _like_chance(results: Results) -> list[str]:
    """Networks that score on test as if they always named the most frequent class."""
    counts, images = results.data.class_counts["test"], results.deployed.images
    chance = max(counts) / sum(counts)
    margin = Z * math.sqrt(chance * (1 - chance) / images)
    names = [it.name for it in results.networks() if it.test["top1"].mean <= 100 * (chance + margin)]
    if not names:
        return []
    return [
        f"No better than chance: {' and '.join(names)}. Whoever always names the most frequent class gets "
        f"{percent(100 * chance)} % of the {count(images)} test images right, and up to "
        f"{percent(100 * (chance + margin))} % may be luck. If the training loss in its history.json hardly "
        "fell, train longer, lower train.lr, or use more images. A teacher that was given may need another "
        "teacher.normalization, or have its classes in another order."
    ]


def _better_on_validation(results: Results) -> list[str]:
    """A method that lies further ahead of the one that ships than so many validation images leave to chance."""
    ships = next(it for it in results.methods if it.deployed)
    best = max(results.methods, key=lambda it: _chosen_by(results, it).mean)
    scores = [_chosen_by(results, it).mean for it in (best, ships)]
    ahead, images = scores[0] - scores[1], results.data.counts["val"]
    luck = Z * math.sqrt(sum(score * (100 - score) for score in scores) / images)
    # Validation images that were trained on choose nothing, and a student that was chosen by them stays.
    if results.data.train_includes_val or results.chosen.of_methods > 1 or ahead <= max(TIE_POINTS, luck):
        return []
    return [
        f"On validation, {best.name} is {percent(ahead)} points ahead of {ships.name}, which ships "
        f"({percent(scores[0])} against {percent(scores[1])} % of {count(images)} images). Set deploy.method to "
        f"{best.name} to ship it instead."
    ]


def _chosen_by(results: Results, network: Network) -> Spread:
    """Validation top-1 of the epoch that ships."""
    return network.val_best if results.select == "best" and network.val_best is not None else network.val_last
