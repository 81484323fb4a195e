"""How fast a network would be once deployed, before it is trained: speed does not depend on weights."""

from pathlib import Path

import numpy as np

from pipeline.deployment.export import Servable, make_card, write_onnx
from pipeline.models.base import Classifier
from pipeline.models.checkpoint import Header
from pipeline.settings.data import Normalization
from serve.model.classifier import OnnxClassifier
from serve.timing import latency

_CALLS = 60
_PLAIN = Normalization(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def write(network: Classifier, image_px: int, opset: int, path: Path) -> Path:
    """Export it as it would be deployed, but for its training, and leave it in eval mode; the path back."""
    header = Header(
        model=dict(network.spec),
        labels=tuple(map(str, range(network.spec["num_classes"]))),
        image_px=image_px,
        normalization=_PLAIN,
        method=None,
        seed=None,
        params_sha256="0" * 64,
        data_sha256="0" * 64,
        licence=None,
    )
    write_onnx(Servable(network, _PLAIN), make_card(path.stem, network, header, {}), path, opset)
    return path


def speedup(slow: Path, fast: Path, image_px: int, threads: int) -> float:
    """How many times as long a call with one image takes in `slow` as in `fast`: called in turns, the median ratio."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, image_px, image_px, 3), dtype=np.uint8)
    files = {"slow": OnnxClassifier(slow, threads, "cpu"), "fast": OnnxClassifier(fast, threads, "cpu")}
    calls = {name: (lambda classifier=classifier: classifier(pixels)) for name, classifier in files.items()}
    samples = latency.measure(calls, _CALLS)
    return latency.paired_ratio(samples["slow"], samples["fast"]).median
