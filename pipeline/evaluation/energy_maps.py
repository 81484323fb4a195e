"""Where networks look: the energy of each stage's map, mean_c F^2, as small grey pictures of a few images.

F is the `raw` tap (B, C, H, W) of a stage, as in `at` and `sakd`. Each picture is stretched from its own least energy
(black) to its own largest (white): brightness compares places of one map, never two maps. A map of equal energies is
black.
"""

import base64
import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.data.feed import Feed
from pipeline.distillation.blocks import energy
from pipeline.models.base import Classifier, title
from pipeline.models.checkpoint import Header


def spread_over_classes(labels: NDArray[np.int64], images: int, seed: int) -> NDArray[np.int64]:
    """Positions (images,) or fewer, drawn by `seed` from a split with `labels` (N,), never a class twice before all.

    Whatever a network makes of the images plays no part.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    seen: dict[int, int] = {}
    turn = np.empty(len(labels), dtype=np.int64)
    for place, label in enumerate(labels[order].tolist()):
        turn[place] = seen[label] = seen.get(label, -1) + 1
    return order[np.argsort(turn, kind="stable")][:images]


@torch.inference_mode()
def look(name: str, model: Classifier, header: Header, images: Tensor) -> dict[str, Any]:
    """One network's record: its predictions of normalised images (B, 3, H, W), and a picture of each stage's energy."""
    features = model.eval().features(images)
    confidences, predicted = features.logits.softmax(1).max(1)
    return {
        "name": name,
        "arch": title(header.model),
        "predictions": [
            {"label": header.labels[k], "confidence": confidence}
            for k, confidence in zip(predicted.tolist(), confidences.tolist(), strict=True)
        ],
        "stages": [_stage(number, tap.raw) for number, tap in enumerate(features.stages, start=1)],
    }


def pictures(feed: Feed, positions: Tensor) -> list[str]:
    """What networks see of the images at `positions` (B,): PNGs in base64."""
    std, mean = (torch.tensor(x).view(1, 3, 1, 1) for x in (feed.normalization.std, feed.normalization.mean))
    pixels = (255 * (feed.images(positions).cpu() * std + mean)).round().clamp(0, 255).byte()
    return [_png(image) for image in pixels.permute(0, 2, 3, 1).numpy()]


def _stage(number: int, maps: Tensor) -> dict[str, Any]:
    energies = energy(maps)
    low, high = energies.amin((1, 2), keepdim=True), energies.amax((1, 2), keepdim=True)
    span = torch.where(high > low, high - low, 1)
    grey = (255 * (energies - low) / span).round().byte().numpy()
    height, width = grey.shape[1:]
    return {"name": f"stage {number}", "height": height, "width": width, "maps": [_png(map_) for map_ in grey]}


def _png(pixels: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
