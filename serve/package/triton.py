"""A model repository for NVIDIA Triton Inference Server from exported models.

    DIR/NAME/config.pbtxt      what Triton must know: tensors, batching, instances, warm-up
    DIR/NAME/labels.txt        class names, one a line, which Triton's classification extension answers with
    DIR/NAME/1/model.onnx      the model; 1 is its version

Everything is read from the card inside the file. https://github.com/triton-inference-server/server, docs/user_guide:
model_repository.md and model_configuration.md; the keys of the ONNX Runtime backend from its README.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serve import files
from serve.errors import ModelError, ServeError
from serve.model import batch_sizes
from serve.model.card import Card
from serve.model.classifier import OnnxClassifier

VERSION = 1


@dataclass(frozen=True)
class Serving:
    """How Triton is to run each model."""

    max_batch: int = 32  # images gathered into one call at most
    max_delay_us: int = 1000  # a request waits no longer for company
    max_queue: int = 512  # requests that wait; one more is refused
    instances: int = 1  # copies that compute at once
    threads: int = 1  # of each copy on the CPU
    on_gpu: bool = False

    @property
    def preferred(self) -> tuple[int, ...]:
        """Batch sizes that are sent off without waiting: powers of two from 4 to max_batch, and max_batch itself."""
        return tuple(size for size in batch_sizes.typical(self.max_batch) if size >= min(4, self.max_batch))


def write(folder: Path, models: Mapping[Path, Card], serving: Serving) -> None:
    """Write a repository with these models. It is complete the moment it is there.

    Raises ModelError for a label that Triton cannot read, ServeError for a folder that holds something, or for two
    models of one name.
    """
    names = [card.name for card in models.values()]
    if len(set(names)) < len(names):
        raise ServeError(f"Triton finds models by their names, but these are {', '.join(names)}; package one of each.")
    with files.new_folder(folder) as aside:
        for path, card in models.items():
            _write_model(aside / card.name, path, card, serving)


def read_cards(paths: Sequence[Path]) -> dict[Path, Card]:
    """The cards of models. Raises ModelError, or ServeError for two that differ in neither name nor precision."""
    cards: dict[Path, Card] = {}
    for path in paths:
        card = OnnxClassifier(path, device="cpu").card
        if any(card.full_name == other.full_name for other in cards.values()):
            raise ServeError(
                f"{path} has the same name as a model before it, {card.full_name!r}; package one of them at a time."
            )
        cards[path] = card
    return cards


def config(card: Card, serving: Serving) -> str:
    """The text of config.pbtxt: a ModelConfig in protobuf's text format."""
    size, num_classes = card.image_px, len(card.labels)
    image = f"[ {size}, {size}, 3 ]"
    warmups = "\n".join(_warmup(batch, image) for batch in sorted({1, *serving.preferred}))
    return f"""name: "{card.name}"
backend: "onnxruntime"
default_model_filename: "model.onnx"
max_batch_size: {serving.max_batch}
input {{ name: "pixels" data_type: TYPE_UINT8 dims: {image} }}
output {{ name: "probabilities" data_type: TYPE_FP32 dims: [ {num_classes} ] label_filename: "labels.txt" }}
output {{ name: "logits" data_type: TYPE_FP32 dims: [ {num_classes} ] label_filename: "labels.txt" }}
instance_group {{ count: {serving.instances} kind: {"KIND_GPU" if serving.on_gpu else "KIND_CPU"} }}
dynamic_batching {{
  preferred_batch_size: [ {", ".join(map(str, serving.preferred))} ]
  max_queue_delay_microseconds: {serving.max_delay_us}
  default_queue_policy {{ max_queue_size: {serving.max_queue} }}
}}
parameters {{ key: "intra_op_thread_count" value {{ string_value: "{serving.threads}" }} }}
parameters {{ key: "inter_op_thread_count" value {{ string_value: "1" }} }}
{warmups}
"""


def _warmup(batch: int, image: str) -> str:
    tensor = f"data_type: TYPE_UINT8 dims: {image} random_data: true"
    return (
        f'model_warmup {{ name: "batch of {batch}" batch_size: {batch} '
        f'inputs {{ key: "pixels" value {{ {tensor} }} }} }}'
    )


def _write_model(folder: Path, path: Path, card: Card, serving: Serving) -> None:
    for label in card.labels:
        if len(label.splitlines()) != 1:
            raise ModelError(f"{path} has the label {label!r}, but Triton reads one label per line. Rename the class.")
    version = folder / str(VERSION)
    version.mkdir(parents=True)
    shutil.copyfile(path, version / "model.onnx")
    (folder / "labels.txt").write_text("\n".join(card.labels) + "\n", encoding="utf-8")
    (folder / "config.pbtxt").write_text(config(card, serving), encoding="utf-8")
    for each in (folder, version):
        os.chmod(each, 0o755)
