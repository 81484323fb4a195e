"""Whether a quantised or half-precision student may take the place of the one in float32: by validation alone.

    drop = top1(float32) - top1(it), in points;  accepted where drop <= max_drop
    cost = 100 mean(p(answer of float32) - p(answer of it)), in points, by float32's probabilities p

Where the validation images were trained on (data.train_includes_val), top-1 on them says little of new images. Then
agreement with float32 is judged as well, which reads no label: equal answers cost nothing, and what another answer
costs float32's own probabilities say. Accepted where cost <= max_drop too.

    SQNR = 10 log10(sum z^2 / sum (z - z')^2) dB, of logits z in float32 and z' of the other

Test scores are reported beside it and decide nothing. Where it is refused, every node is quantised alone once, to see
which does most damage.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import torch
from torch import Tensor

from pipeline.data.arrays import Split
from pipeline.deployment.quantize import Quantizer
from pipeline.evaluation import metrics

_RANKING_IMAGES = 512
_NAMED = 3


@dataclass(frozen=True)
class Verdict:
    """What is decided of one network, and why in one sentence."""

    accepted: bool
    reason: str
    drop_points: float | None
    """None where its logits are no numbers."""


def predict(model: onnx.ModelProto, split: Split, batch_size: int) -> Tensor:
    """logits (N, K) of a whole split by ONNX Runtime on the CPU, in float32."""
    options = onnxruntime.SessionOptions()
    # Left to itself it takes every core, whatever a scheduler granted this process.
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    read = split.central_reader()
    positions = np.array_split(np.arange(len(split)), math.ceil(len(split) / batch_size))
    return torch.cat([torch.from_numpy(session.run(["logits"], {"pixels": read(part)})[0]) for part in positions])


def scores(logits: Tensor, float32: Tensor, labels: Tensor) -> dict[str, float | None]:
    """Of logits (N, K) on one split: metrics.classification; float32_agreement, the same top-1, in percent; sqnr_db.

    sqnr_db is None where not one logit differs.
    """
    agreement = metrics.agreement(logits, float32)["top1_agreement"]
    own = metrics.classification(logits, labels)
    return own | {"float32_agreement": agreement, "sqnr_db": sqnr_db(float32, logits)}


def sqnr_db(float32: Tensor, logits: Tensor) -> float | None:
    """Signal to quantisation noise of logits (N, K) in dB; None where there is no noise."""
    signal, noise = float32.double().square().sum(), (float32.double() - logits.double()).square().sum()
    return 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else None


def decide(float32: Tensor, logits: Tensor, labels: Tensor, max_drop: float, seen: bool = False) -> Verdict:
    """From logits (N, K) and labels (N,) of the validation split; `seen` if it was trained on."""
    broken = int((~logits.isfinite()).any(1).sum())
    if broken:
        reason = f"refused: its logits are not finite for {broken} of {len(labels)} validation images"
        return Verdict(False, reason, None)
    before, after = (100 * (z.argmax(1) == labels).double().mean().item() for z in (float32, logits))
    drop = round(before - after, 9)  # a tenth of a point is not exact in binary
    moved = f"a {'drop' if drop >= 0 else 'gain'} of {abs(drop):.2f} points"
    change = f"validation top-1 {before:.2f} -> {after:.2f} %, {moved}"
    loss = drop
    if seen:
        probabilities, answers = float32.double().softmax(1), logits.argmax(1, keepdim=True)
        cost = round(100 * (probabilities.amax(1, keepdim=True) - probabilities.gather(1, answers)).mean().item(), 9)
        loss = max(drop, cost)
        agreement = metrics.agreement(logits, float32)["top1_agreement"]
        change += (
            f", of images seen in training; {agreement:.2f} % of the answers are those of float32, and the others cost "
            f"{cost:.2f} points by its probabilities"
        )
    if loss <= max_drop:
        return Verdict(True, f"accepted: {change}; deploy.max_drop allows {max_drop:.2f}", drop)
    return Verdict(False, f"refused: {change}, {loss - max_drop:.2f} more than deploy.max_drop {max_drop:.2f}", drop)


def damage(quantizer: Quantizer, float32: Tensor, split: Split, batch_size: int) -> list[dict[str, Any]]:
    """What each node does when it alone is quantised, on some of the validation split, the lowest SQNR first.

    float32: logits (N, K) of the whole split. Each record: node, of (its weight, or its operator), sqnr_db (None where
    nothing changes), drop_points of top-1.
    """
    some = np.unique(np.linspace(0, len(split) - 1, min(len(split), _RANKING_IMAGES)).round().astype(np.int64))
    part = Split(split.central_reader()(some), np.array(split.labels[some]))
    expected, labels = float32[torch.from_numpy(some)], torch.from_numpy(part.labels)
    records = []
    for node, of in quantizer.nodes.items():
        logits = predict(quantizer.model(only=node), part, batch_size)
        drop = decide(expected, logits, labels, 0).drop_points
        records.append({"node": node, "of": of, "sqnr_db": sqnr_db(expected, logits), "drop_points": drop})
    return sorted(records, key=lambda record: math.inf if record["sqnr_db"] is None else record["sqnr_db"])


def name_worst(nodes: list[dict[str, Any]]) -> str:
    """The nodes that do most damage, as a sentence's end."""
    noisy = [node for node in nodes if node["sqnr_db"] is not None][:_NAMED]
    named = ", ".join(f"{node['node']} ({node['of']}, {node['sqnr_db']:.1f} dB)" for node in noisy)
    return f"most damaging nodes, by the SQNR with each alone in integers: {named}; quantize.exclude leaves nodes out"
