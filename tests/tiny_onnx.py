"""A tiny classifier in the format that export writes, built without torch in a few milliseconds.

logits = ((mean over H and W of pixels) / 255 - mean) / std @ weight + bias; probabilities = softmax(logits).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.deployment import onnx_file
from serve.model.classifier import OnnxClassifier

MEAN = (0.5, 0.25, 0.125)
STD = (0.25, 0.5, 0.125)


def card(
    name: str = "student",
    labels: tuple[str, ...] = ("ant", "bee", "cow"),
    image_px: int = 8,
    resize_px: int | None = None,
) -> dict[str, object]:
    """A complete card as plain data, but for the checksum that `write` adds."""
    return {
        "format": 1,
        "name": name,
        "precision": "float32",
        "labels": list(labels),
        "image_px": image_px,
        "resize_px": resize_px or image_px,
        "mean": list(MEAN),
        "std": list(STD),
        "arch": "tiny",
        "method": "kd",
        "seed": 0,
        "num_parameters": 4 * len(labels),
        "macs": 3 * len(labels),
        "metrics": {"top1": 50.0, "top5": 100.0},
        "params_sha256": "0" * 64,
        "data_sha256": "1" * 64,
        "data_licence": None,
    }


def weights(num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(3, K) weight and (K,) bias, float32."""
    generator = np.random.default_rng(seed)
    return (
        generator.normal(size=(3, num_classes)).astype(np.float32),
        generator.normal(size=num_classes).astype(np.float32),
    )


def build(image_px: int = 8, num_classes: int = 3, seed: int = 0) -> onnx.ModelProto:
    """The model without a card."""
    weight, bias = weights(num_classes, seed)
    constants = {
        "axes": np.array([1, 2], dtype=np.int64),
        "mean": 255 * np.array(MEAN, dtype=np.float32),
        "std": 255 * np.array(STD, dtype=np.float32),
        "weight": weight,
        "bias": bias,
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["pooled"], keepdims=0),
        helper.make_node("Sub", ["pooled", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", image_px, image_px, 3])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", num_classes]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", num_classes]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def write(
    path: Path, name: str = "student", image_px: int = 8, num_classes: int = 3, seed: int = 0, **changes: Any
) -> Path:
    """Write a sound model, named after `name`, with `changes` of its card, and give its path back."""
    labels = tuple(f"class {index}" for index in range(num_classes))
    onnx_file.write(build(image_px, num_classes, seed), card(name, labels, image_px) | changes, path)
    return path


def classifiers(folder: Path, sizes: Mapping[str, tuple[int, int, int]]) -> dict[str, OnnxClassifier]:
    """Sound models by name, each of (image_px, num_classes, seed), opened on the CPU."""
    paths = {name: write(folder / f"{name}.onnx", name, *size) for name, size in sizes.items()}
    return {name: OnnxClassifier(path, device="cpu") for name, path in paths.items()}


def expected_logits(pixels: np.ndarray, num_classes: int = 3, seed: int = 0) -> np.ndarray:
    """What the model must answer to (N, H, W, 3) uint8 pixels, computed by hand in float64."""
    weight, bias = weights(num_classes, seed)
    scaled = (pixels.mean(axis=(1, 2)) / 255 - np.array(MEAN)) / np.array(STD)
    return scaled @ weight.astype(np.float64) + bias
