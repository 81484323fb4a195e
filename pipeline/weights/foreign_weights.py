"""A network filled from a weights file that was made elsewhere: by timm, torchvision, transformers or one's own code.

weight_files.py reads the file, and weight_names.py finds the network in it. Here it is held to what is said of it and
to the data: its architecture, its classes and their order, and the normalisation that it needs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.card import DataCard
from pipeline.models import checkpoint
from pipeline.models.base import Classifier, Spec, build, pretrained_normalization, spec_of
from pipeline.settings.data import Normalization
from pipeline.system.errors import CheckpointError
from pipeline.weights import weight_files, weight_names
from pipeline.weights.weight_files import WeightsFile

_SEEN = (
    "note: it was trained on its validation images too (data.train_includes_val). Where this run has the same ones, "
    "validation figures of it and of its students are too high."
)
_NEW_HEAD = "Set teacher.head to retrain: then a new last layer for the data's classes is trained on its features"


@dataclass(frozen=True)
class Fitted:
    """A network with weights from elsewhere, in eval mode, and what is known of them."""

    model: Classifier
    normalization: Normalization | None
    """That the weights were trained with; None where nothing says so."""
    source: str
    """What says so."""
    labels: tuple[str, ...] | None
    """In the order of the last layer; None where nothing says so."""
    is_ours: bool
    """Whether a run of Pupil wrote the file, whose word on all of this then holds."""
    said: tuple[str, ...]
    """What was renamed, what is missing, what is left over, and what else is to be known: a line each."""


def fit(path: Path, arch: str, num_classes: int | None = None, image_px: int | None = None) -> Fitted:
    """The network `arch` with the weights of the file or folder `path`.

    num_classes: None takes the last layer from the file, with as many classes as it has. A number leaves a fresh last
    layer for so many. image_px: of the images that it is to see; None: what it is made for by itself.

    Raises CheckpointError saying what the file holds, what was expected, and what lies nearest.
    """
    file = weight_files.read(path)
    _check_arch(path, arch, file)
    fresh = {"arch": arch, "num_classes": 1} if image_px is None else spec_of(arch, 1, image_px)
    spec: Spec = file.header.model if file.header else fresh
    model = build(spec if num_classes is None else _with_classes(spec, num_classes))
    match = weight_names.match(model, file.holders, path)
    if problems := match.problems(with_head=num_classes is None):
        if num_classes is None and not match.problems(with_head=False):
            raise CheckpointError(
                f"{path} holds a {arch}, but no last layer that is known: {'; '.join(problems)}. {_NEW_HEAD}."
            )
        raise CheckpointError(
            f"{path} does not hold a {arch}: {'; '.join(problems)}. Check teacher.arch. The same layers "
            "under other names are not taken."
        )
    if num_classes is None and (classes := len(match.taken[match.head[0]])) != model.fc.out_features:
        model = build(_with_classes(spec, classes))
    if num_classes is not None:
        match = match.without_head()
    model.load_state_dict(match.taken, strict=False)
    checkpoint.check_finite(model.eval(), path)
    if file.header:
        said = match.said() + ((_SEEN,) if file.header.train_includes_val else ())
        return Fitted(model, file.header.normalization, str(path), file.header.labels, True, said)
    normalization, source = file.stated.normalization, f"{path}: {file.stated.source}"
    if normalization is None:
        normalization, source = pretrained_normalization(arch), f"the configuration of {arch}"
    return Fitted(model, normalization, source, file.stated.labels, False, match.said())


def teacher(
    path: Path, arch: str, normalization: Normalization | None, card: DataCard, fresh_head: bool
) -> tuple[Classifier, Normalization, tuple[str, ...]]:
    """A teacher of the card's classes, the normalisation that it needs, and lines that say how both were found.

    `normalization` wins over what is said of the weights, but a file of Pupil's is held to what it says. `fresh_head`:
    its last layer is a fresh one. Otherwise that of the file must know the card's classes, and, as far as the file
    names them, in the card's order.

    Raises CheckpointError as `fit` does, and where classes or normalisation do not fit.
    """
    fitted = fit(path, arch, card.num_classes if fresh_head else None, card.image_px)
    if fitted.is_ours and normalization not in (None, fitted.normalization):
        raise _unfit(path, "teacher.normalization", normalization, fitted.normalization)
    if not fresh_head:
        _check_classes(path, fitted, card)
    used, source = fitted.normalization or card.normalization, fitted.source
    if normalization is not None:
        used, source = normalization, "teacher.normalization"
    elif fitted.normalization is None:
        source = "the data, because nothing says what the weights need; teacher.normalization sets it"
    return fitted.model, used, (*fitted.said, in_words(used, source))


def in_words(normalization: Normalization, source: str) -> str:
    """A line that says which normalisation a teacher gets, and from where."""
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (normalization.mean, normalization.std))
    return f"normalisation: mean ({mean}), std ({std}), from {source}"


def save(fitted: Fitted, path: Path) -> None:
    """Write a network with the names that it has here, and what is known of it, as a file that `fit` reads again."""
    config: dict[str, Any] = {"pupil_arch": fitted.model.spec["arch"]}
    if fitted.labels is not None:
        config["label_names"] = fitted.labels
    if fitted.normalization is not None:
        config["pretrained_cfg"] = fitted.normalization.model_dump()
    tensors = {name: tensor.contiguous() for name, tensor in fitted.model.state_dict().items()}
    checkpoint.write_tensors(path, tensors, config, weight_files.CONFIG)


def _check_arch(path: Path, arch: str, file: WeightsFile) -> None:
    if file.header:
        if file.header.model["arch"] != arch:
            raise _unfit(path, "teacher.arch", arch, file.header.model["arch"])
        return
    # A network of timm may have a namesake here; its tensors decide then. The part behind a dot names weights.
    stated = file.stated.arch or arch
    if stated.startswith("timm/") == arch.startswith("timm/") and stated.split(".")[0] != arch.split(".")[0]:
        raise _unfit(path, "teacher.arch", arch, stated)


def _check_classes(path: Path, fitted: Fitted, card: DataCard) -> None:
    classes = fitted.model.fc.out_features
    if classes != card.num_classes:
        raise CheckpointError(f"{path} knows {classes} classes, but the data set has {card.num_classes}. {_NEW_HEAD}.")
    if fitted.labels == card.labels or fitted.labels is None:
        return
    if sorted(fitted.labels) == sorted(card.labels):
        number = next(k for k, pair in enumerate(zip(fitted.labels, card.labels, strict=True)) if pair[0] != pair[1])
        raise CheckpointError(
            f"{path} knows the data set's classes in another order: its class {number} is "
            f"'{fitted.labels[number]}', that of the data '{card.labels[number]}'. {_NEW_HEAD}; or save the rows of "
            "its last layer in the data's order, which is that of the labels in data/prepared/card.json."
        )
    # Another file may name the same classes by other words: what it is worth on the data, shows on the data.
    if fitted.is_ours:
        raise _unfit(path, "the data set's classes", card.labels, fitted.labels)


def _unfit(path: Path, what: str, expected: object, came: object) -> CheckpointError:
    expected, came = (weight_names.short(v) if isinstance(v, tuple) else str(v) for v in (expected, came))
    return CheckpointError(f"{path} does not fit: {what} is {expected}, but the file says {came}.")


def _with_classes(spec: Spec, num_classes: int) -> dict[str, Any]:
    """The spec of the same network with another last layer. A pruned network's is its body's."""
    body = {"body": _with_classes(spec["body"], num_classes)} if "body" in spec else {}
    return {**spec, "num_classes": num_classes, **body}
