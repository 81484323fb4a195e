"""A trained network in one safetensors file: weights, and a JSON header that rebuilds the network around them.

No pickle: loading a file runs no code of its author. The header holds no time, host or path, so the same training
gives the same bytes. Weights without such a header come in through pipeline/weights.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.data.card import DataCard
from pipeline.models.base import Classifier, build
from pipeline.settings.data import Normalization
from pipeline.system.errors import CheckpointError
from pipeline.system.files import replacing

_KEY = "pupil"
_FORMAT = 1


class Header(BaseModel):
    """All that is needed to use the weights, and to know where they came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = _FORMAT
    model: dict[str, Any]
    """Spec of the network, for models.base.build."""
    labels: tuple[str, ...]
    image_px: int
    """Height and width of the images that the network sees."""
    storage_px: int | None = None
    """Short side that images were scaled to before their middle was cut out; None: image_px."""
    cut_px: int | None = Field(default=None, exclude_if=lambda px: px is None)
    """Height and width of that middle, which was then made smaller to image_px; None: image_px, it was not."""
    normalization: Normalization
    method: str | None
    """Distillation method; null for a teacher."""
    seed: int | None
    """null where the weights came from outside."""
    params_sha256: str
    """Of the parameters that training read."""
    data_sha256: str
    """Of the training images."""
    train_includes_val: bool = Field(default=False, exclude_if=lambda seen: not seen)
    """Whether validation images were among the training images."""
    licence: str | None
    """Of the data."""

    @model_validator(mode="after")
    def _model_names_its_network(self) -> "Header":
        spec: Any = self.model
        while spec is not None:
            if not isinstance(spec, dict) or not isinstance(spec.get("arch"), str):
                raise ValueError(f"expected a spec with arch, the name of a network, but it is {_short(spec)}")
            classes = spec.get("num_classes")
            if type(classes) is not int or classes < 1:
                raise ValueError(f"num_classes of {spec['arch']} is {classes!r}, not a whole number from 1 on")
            if self.labels and classes != len(self.labels):
                raise ValueError(f"num_classes of {spec['arch']} is {classes}, but there are {len(self.labels)} labels")
            spec = spec.get("body")
        return self


def save(model: Classifier, header: Header, path: Path) -> None:
    """Write weights and header, whole or not at all."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_tensors(path, tensors, header.model_dump(mode="json"))


def load(path: Path) -> tuple[Classifier, Header]:
    """The network with its weights, in eval mode, and its header.

    Raises CheckpointError when the file is missing, torn, not one of Pupil's, or does not fill its own network.
    """
    tensors, raw = read_tensors(path)
    if raw is None:
        raise CheckpointError(
            f"{path} has no header written by Pupil. To use weights from elsewhere, name the file in "
            "teacher.weights in params.yaml."
        )
    header = _header(raw, path)
    model = build(header.model)
    _fill(model, tensors, path)
    return model, header


def make_header(
    model: Classifier,
    card: DataCard,
    normalization: Normalization,
    method: str | None,
    seed: int | None,
    facts: dict[str, Any],
    image_px: int | None = None,
) -> Header:
    """The header of a network that was trained on the card's data, and sees images of image_px; None: the card's."""
    seen_px = image_px or card.image_px
    return Header(
        model=dict(model.spec),
        labels=card.labels,
        image_px=seen_px,
        storage_px=card.storage_px,
        cut_px=card.image_px if seen_px != card.image_px else None,
        normalization=normalization,
        method=method,
        seed=seed,
        params_sha256=hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest(),
        data_sha256=card.sha256["train/images.npy"],
        train_includes_val=card.train_includes_val,
        licence=card.licence,
    )


def check_data(header: Header, card: DataCard, path: Path) -> None:
    """Raise CheckpointError where the network in `path` was trained on other classes than the card's."""
    if header.labels != card.labels:
        raise CheckpointError(
            f"{path} knows the classes {_short(header.labels)}, but the data set has {_short(card.labels)}. Run `dvc "
            "repro` to train it again."
        )


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any], key: str = _KEY) -> None:
    """One safetensors file with a JSON header, written aside and renamed. One header key: more would have no order."""
    with replacing(path) as scratch:
        scratch.touch()
        mode = scratch.stat().st_mode
        try:
            save_file(tensors, scratch, metadata={key: json.dumps(header, sort_keys=True)})
        except SafetensorError as error:
            # Its own kind of error, for a full disk too.
            raise OSError(str(error)) from error
        # It leaves a file that its owner alone can read; a model is read by others, such as a server's user.
        scratch.chmod(mode)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Tensors and header of a safetensors file; the header is None where Pupil did not write it.

    Raises CheckpointError for a missing, torn or foreign file.
    """
    tensors, metadata = read_file(path)
    return tensors, _raw(metadata, path)


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of any safetensors file. Raises CheckpointError for a missing, torn or foreign file."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: expected a safetensors file there.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118  # not a dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({error}). Copy or download it again, if it is one."
        ) from error


def header_of(metadata: dict[str, str], path: Path) -> Header | None:
    """What Pupil wrote into a file, or None. Raises CheckpointError for one that is damaged or of another version."""
    raw = _raw(metadata, path)
    return None if raw is None else _header(raw, path)


def json_object(text: str | bytes, where: str) -> dict[str, Any]:
    """What a JSON object holds. Raises CheckpointError, saying `where` the text stands, if it is none."""
    try:
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError(f"it is a {type(found).__name__}")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not a JSON object ({error}). Copy or download it again.") from error
    return found


def _raw(metadata: dict[str, str], path: Path) -> dict[str, Any] | None:
    return json_object(metadata[_KEY], f"the header of {path}") if _KEY in metadata else None


def _header(raw: dict[str, Any], path: Path) -> Header:
    try:
        return Header.model_validate(raw)
    except ValidationError as error:
        found = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'model'}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()[:3]
        )
        raise CheckpointError(
            f"{path} has a header that is damaged or of another version ({found}). Copy it again, or train the network "
            "again."
        ) from error


def _fill(model: Classifier, tensors: dict[str, Tensor], path: Path) -> None:
    expected = model.state_dict()
    # Old checkpoints lack the counters of BN; nothing here reads them.
    optional = {name for name in expected if name.endswith("num_batches_tracked")}
    missing = sorted(expected.keys() - tensors.keys() - optional)
    unknown = sorted(tensors.keys() - expected.keys())
    shapes = [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(expected[name].shape)}"
        for name in expected.keys() & tensors.keys()
        if tensors[name].shape != expected[name].shape
    ]
    if missing or unknown or shapes:
        found = "; ".join(
            [f"it lacks {_short(missing)}"] * bool(missing)
            + [f"it has in addition {_short(unknown)}"] * bool(unknown)
            + sorted(shapes)[:3]
        )
        raise CheckpointError(
            f"{path} does not hold a {model.spec['arch']} with {model.spec['num_classes']} classes: {found}. "
            "The file was made by another version of this network, or is damaged: train it again."
        )
    model.load_state_dict(tensors, strict=False)
    check_finite(model.eval(), path)


def check_finite(model: Classifier, path: Path) -> None:
    """Raise CheckpointError where a weight or a statistic of BN that came from `path` is no number."""
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{path} holds weights that are not finite, such as {name}. Take another file, or train it again."
            )


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= 120 else text[:117] + "..."
