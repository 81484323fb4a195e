"""Whether a quantised or half-precision student may take the place of the one in float32: never by the test split.

    drop = 100 (l - g) / N, in points;  l, g: validation images of N that turn wrong, that turn right
    its 95 % interval is that of Agresti and Min for paired answers: half an image is added to each of the four kinds
    cost = 100 mean(p(answer of float32) - p(answer of it)), in points, by float32's probabilities p, on images of train

Validation can tell where the interval ends below max_drop, or lies above 0: then it is accepted if drop <= max_drop.
Where few images are left in doubt, a single one would decide, by chance. Agreement with float32 is judged then, which
reads no label, on images of train: equal answers cost nothing, and what another answer costs float32's own
probabilities say. It is accepted if the interval of the cost ends at max_drop or below. So it is, too, where validation
images were trained on (data.train_includes_val): they can tell of a loss, but not that there is none.

    SQNR = 10 log10(sum z^2 / sum (z - z')^2) dB, of logits z in float32 and z' of the other

Test scores are reported beside it and decide nothing. Where it is refused, every node is quantised alone once, to see
which does most damage. Agresti and Min, "Simple improved confidence intervals for comparing matched proportions",
Statistics in Medicine 2005.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.arrays import Split
from pipeline.deployment.quantize import Quantizer
from pipeline.evaluation import metrics
from pipeline.evaluation.comparison import Z
from pipeline.settings.data import validation_label

_AGREEMENT_IMAGES = 2048
_RANKING_IMAGES = 512
_NAMED = 3


@dataclass(frozen=True)
class Verdict:
    """What is decided of one network, and why in a sentence or two."""

    accepted: bool
    reason: str
    drop_points: float | None
    """None where its logits are no numbers."""
    validation_tells: bool = True
    """False: the validation images could not tell, and agreement with float32 decided."""


def spread(images: int, most: int = _AGREEMENT_IMAGES) -> NDArray[np.int64]:
    """Positions of at most `most` images, evenly over a split."""
    return np.unique(np.linspace(0, images - 1, min(images, most)).round().astype(np.int64))


def predict(
    model: onnx.ModelProto, split: Split, batch_size: int, positions: NDArray[np.int64] | None = None
) -> Tensor:
    """logits (N, K) of a split, or of its images at `positions`, by ONNX Runtime on the CPU, in float32."""
    options = onnxruntime.SessionOptions()
    # Left to itself it takes every core, whatever a scheduler granted this process.
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    read = split.central_reader()
    wanted = np.arange(len(split)) if positions is None else positions
    parts = np.array_split(wanted, math.ceil(len(wanted) / batch_size))
    return torch.cat([torch.from_numpy(session.run(["logits"], {"pixels": read(part)})[0]) for part in parts])


def scores(logits: Tensor, float32: Tensor, labels: Tensor) -> dict[str, float | None]:
    """Of logits (N, K) on one split: metrics.classification; float32_agreement, the same top-1, in percent; sqnr_db.

    sqnr_db is None where not one logit differs.
    """
    agreement = metrics.agreement(logits, float32)["top1_agreement"]
    own = metrics.classification(logits, labels)
    return own | {"float32_agreement": agreement, "sqnr_db": sqnr_db(float32, logits)}


def measured(scores: dict[str, float | None] | None) -> dict[str, float]:
    """Scores that are numbers, as a card holds them."""
    return {name: value for name, value in (scores or {}).items() if value is not None}


def sqnr_db(float32: Tensor, logits: Tensor) -> float | None:
    """Signal to quantisation noise of logits (N, K) in dB; None where there is no noise."""
    signal, noise = float32.double().square().sum(), (float32.double() - logits.double()).square().sum()
    return 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else None


def on_train(
    float32: onnx.ModelProto, train: Split, images: int, batch_size: int
) -> Callable[[onnx.ModelProto], tuple[Tensor, Tensor]]:
    """What float32 and another say of some of the first `images` of train: a function of the other, for `decide`."""
    some = spread(images)
    known = cache(lambda: predict(float32, train, batch_size, some))
    return lambda other: (known(), predict(other, train, batch_size, some))


def decide(
    float32: Tensor,
    logits: Tensor,
    labels: Tensor,
    max_drop: float,
    on_train: Callable[[], tuple[Tensor, Tensor]],
    seen: bool = False,
) -> Verdict:
    """From logits (N, K) and labels (N,) of the validation split, and where they cannot tell, from images of train.

    Args:
        float32: of the student in float32.
        logits: of the network that is judged.
        labels: of the images.
        max_drop: points that it may lose.
        on_train: logits (M, K) of both on images of train, in the same order; called only where it is needed.
        seen: whether the validation split was trained on.
    """
    if broken := _broken(logits):
        reason = f"refused: its logits are not finite for {broken} of {len(labels)} validation images"
        return Verdict(False, reason, None)
    before, after = (z.argmax(1) == labels for z in (float32, logits))
    lost, gained, images = int((before & ~after).sum()), int((after & ~before).sum()), len(labels)
    drop, (low, high) = _drop(float32, logits, labels), paired_interval(lost, gained, images)
    top1 = " -> ".join(f"{100 * right.double().mean().item():.2f}" for right in (before, after))
    val = validation_label("validation", seen)
    change = (
        f"{val} top-1 {top1} %, a {'drop' if drop >= 0 else 'gain'} of {abs(drop):.2f} points: {lost} of {images} "
        f"images turned wrong and {gained} right (the drop lies in [{low:.2f}, {high:.2f}])"
    )
    limit = f"deploy.max_drop {max_drop:.2f}"
    if drop > max_drop and low > 0:
        return Verdict(False, f"refused: {change}, {drop - max_drop:.2f} more than {limit}", drop)
    if not seen and (high <= max_drop or low > 0):
        return Verdict(True, f"accepted: {change}; {limit} allows it", drop)
    doubt = "were trained on and" if seen else "are too few and"
    why = f"these {images} images {doubt} cannot tell whether that is within {limit}, so agreement with float32 decides"
    cost, said = _agreement(*on_train())
    verdict = "accepted" if cost <= max_drop else "refused"
    return Verdict(cost <= max_drop, f"{verdict}: {change}; {why}: {said}", drop, validation_tells=False)


def paired_interval(lost: int, gained: int, images: int) -> tuple[float, float]:
    """The 95 % interval of 100 (lost - gained) / images, of paired answers, in points; see above."""
    changed, difference, number = lost + gained + 1, lost - gained, images + 2
    half = Z * math.sqrt(changed - difference**2 / number)
    return 100 * (difference - half) / number, 100 * (difference + half) / number


def _agreement(float32: Tensor, logits: Tensor) -> tuple[float, str]:
    """The upper end of the cost's 95 % interval on images of train, infinite for no numbers; and what was found."""
    images = len(float32)
    if broken := _broken(logits):
        return math.inf, f"its logits are not finite for {broken} of {images} images of train"
    probabilities, answers = float32.double().softmax(1), logits.argmax(1, keepdim=True)
    costs = 100 * (probabilities.amax(1) - probabilities.gather(1, answers).squeeze(1))
    mean, half = costs.mean().item(), Z * costs.std(correction=0).item() / math.sqrt(images)
    same = metrics.agreement(logits, float32)["top1_agreement"]
    return round(mean + half, 9), (
        f"of {images} images of train {same:.2f} % get the same answer, and the others cost {mean:.2f} "
        f"[{max(0.0, mean - half):.2f}, {mean + half:.2f}] points by the probabilities of float32"
    )


def _drop(float32: Tensor, logits: Tensor, labels: Tensor) -> float:
    before, after = (100 * (z.argmax(1) == labels).double().mean().item() for z in (float32, logits))
    return round(before - after, 9)  # a tenth of a point is not exact in binary


def _broken(logits: Tensor) -> int:
    return int((~logits.isfinite()).any(1).sum())


def damage(
    quantizer: Quantizer, nodes: Iterable[tuple[str, str]], float32: Tensor, split: Split, batch_size: int
) -> list[dict[str, Any]]:
    """What each node does when it alone is quantised, on some of the validation split, the lowest SQNR first.

    nodes: items of `quantizer.nodes`. float32: logits (N, K) of the whole split. Each record: node, of (its weight, or
    its operator), sqnr_db (None where nothing changes), drop_points of top-1.
    """
    some = spread(len(split), _RANKING_IMAGES)
    expected, labels = float32[torch.from_numpy(some)], torch.from_numpy(np.array(split.labels[some]))
    records = []
    for node, of in nodes:
        logits = predict(quantizer.model(only=node), split, batch_size, some)
        drop = None if _broken(logits) else _drop(expected, logits, labels)
        records.append({"node": node, "of": of, "sqnr_db": sqnr_db(expected, logits), "drop_points": drop})
    return sorted(records, key=lambda record: math.inf if record["sqnr_db"] is None else record["sqnr_db"])


def name_worst(nodes: list[dict[str, Any]]) -> str:
    """The nodes that do most damage, as a sentence's end."""
    noisy = [node for node in nodes if node["sqnr_db"] is not None][:_NAMED]
    named = ", ".join(f"{node['node']} ({node['of']}, {node['sqnr_db']:.1f} dB)" for node in noisy)
    return f"most damaging nodes, by the SQNR with each alone in integers: {named}"
