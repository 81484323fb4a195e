"""A trained network in one safetensors file: weights, and a JSON header that rebuilds the network around them.

No pickle: loading a file runs no code of its author. The header holds no time, host or path, so the same training
gives the same bytes. Weights without such a header come in through `import_weights`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.data.card import DataCard
from pipeline.models.base import Classifier, build
from pipeline.settings.data import Normalization
from pipeline.system.errors import CheckpointError
from pipeline.system.files import replacing, sha256

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
    storage_px: int | None = None
    """Short side that images were scaled to before their middle image_px were cut out; None: image_px."""
    normalization: Normalization
    method: str | None
    """Distillation method; null for a teacher."""
    seed: int | None
    """null where the weights came from outside."""
    params_sha256: str
    """Of the parameters that training read."""
    data_sha256: str
    """Of the training images."""
    licence: str | None
    """Of the data."""


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


def check_data(header: Header, card: DataCard, path: Path) -> None:
    """Raise CheckpointError where the network in `path` was trained on other classes than the card's."""
    if header.labels != card.labels:
        raise CheckpointError(
            f"{path} knows the classes {_short(header.labels)}, but the data set has {_short(card.labels)}. Run `dvc "
            "repro` to train it again."
        )


def weights_sha256(path: str) -> str:
    """Checksum of the file that teacher.weights names. Raises CheckpointError when there is none."""
    if not Path(path).is_file():
        raise CheckpointError(
            f"teacher.weights is '{path}', but there is no such file. Set it to a safetensors file, or to null to "
            "train the teacher."
        )
    return sha256(Path(path))


def import_weights(
    path: Path, arch: str, normalization: Normalization | None, card: DataCard
) -> tuple[Classifier, Normalization]:
    """A teacher from a file that was not made in this pipeline's run.

    A file with Pupil's header is checked against `arch`, `normalization` and the card; one without is taken to be
    `arch` trained with `normalization` (None: that of the card) on the card's classes, in the card's order.

    Raises CheckpointError saying what the file holds and what was expected.
    """
    tensors, raw = read_tensors(path)
    stated = _header(raw, path) if raw is not None else None
    if stated is not None:
        for what, expected, came in (
            ("teacher.arch", arch, stated.model["arch"]),
            ("the data set's classes", card.labels, stated.labels),
            ("teacher.normalization", normalization or stated.normalization, stated.normalization),
        ):
            if expected != came:
                raise CheckpointError(
                    f"{path} does not fit: {what} is {_short(expected)}, but the file says {_short(came)}."
                )
        spec, used = stated.model, stated.normalization
    else:
        spec, used = {"arch": arch, "num_classes": card.num_classes}, normalization or card.normalization
    model = build(spec)
    _fill(model, tensors, path)
    return model, used


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """One safetensors file with a JSON header, written aside and renamed. One header key: more would have no order."""
    with replacing(path) as scratch:
        scratch.touch()
        mode = scratch.stat().st_mode
        try:
            save_file(tensors, scratch, metadata={_KEY: json.dumps(header, sort_keys=True)})
        except SafetensorError as error:
            # Its own kind of error, for a full disk too.
            raise OSError(str(error)) from error
        # It leaves a file that its owner alone can read; a model is read by others, such as a server's user.
        scratch.chmod(mode)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Tensors and header of a safetensors file; the header is None where Pupil did not write it.

    Raises CheckpointError for a missing, torn or foreign file.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: expected a safetensors file there.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({error}). Pickled weights are not read."
        ) from error
    return tensors, json.loads(metadata[_KEY]) if _KEY in metadata else None


def _header(raw: dict[str, Any], path: Path) -> Header:
    try:
        return Header.model_validate(raw)
    except ValidationError as error:
        raise CheckpointError(f"{path} has a header of another version: {error}") from error


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
            "Check teacher.arch and the number of classes of the data."
        )
    model.load_state_dict(tensors, strict=False)
    model.eval()
    for parameter in model.parameters():
        if not torch.isfinite(parameter).all():
            raise CheckpointError(f"{path} holds weights that are not finite.")


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= 120 else text[:117] + "..."
