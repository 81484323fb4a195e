"""How fast a network would be once deployed, before it is trained: speed does not depend on weights."""

from pathlib import Path

import numpy as np

from pipeline.deployment import onnx_file
from pipeline.deployment.export import Servable, make_card, write_onnx
from pipeline.models.base import Classifier
from pipeline.models.checkpoint import Header
from pipeline.settings.data import Normalization

_CALIBRATION_IMAGES = 16
_PLAIN = Normalization(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def header(network: Classifier, image_px: int) -> Header:
    """Of a checkpoint of a network that nobody trained, on no data, with numbers as class names."""
    return Header(
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


def write(network: Classifier, image_px: int, opset: int, path: Path) -> Path:
    """Export it as it would be deployed, but for its training, and leave it in eval mode; the path back."""
    write_onnx(Servable(network, _PLAIN), make_card(path.stem, header(network, image_px), {}), path, opset)
    return path


def write_int8(float32: Path, path: Path) -> Path:
    """The network of an exported file in 8-bit integers, with ranges that random images show; the path back.

    It is as large and as fast as the one that stage quantize would make, but says nothing about accuracy.
    """
    # ONNX Runtime's quantiser, which nobody needs who only asks how fast a network is.
    from pipeline.deployment import quantize

    model, card = onnx_file.read(float32)
    shape = (_CALIBRATION_IMAGES, card["image_px"], card["image_px"], 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    smaller = quantize.Quantizer(model, [pixels]).model()
    onnx_file.write(smaller, card | {"precision": "int8"}, path)
    return path
