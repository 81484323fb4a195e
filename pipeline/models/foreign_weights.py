"""A network filled from a weights file that was made elsewhere: by timm, torchvision, transformers or one's own code.

Names decide, with shapes. Such a file may keep the network in one of several dictionaries (state_dict, model_ema), may
put something before every name (module., _orig_mod., backbone.), and this project does so too (timm's networks lie in
net.). The dictionary and the prefix that fit most tensors of the network are taken, of equally good ones the average
(EMA). Every tensor of the network has to be there, in its shape, and no other of the same network may be left.

Weights are never matched by their order or shapes alone: layers of one shape would be mixed up unseen.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.data.card import DataCard
from pipeline.models import checkpoint, weight_files
from pipeline.models.base import Classifier, Spec, build, pretrained_normalization
from pipeline.models.weight_files import WeightsFile
from pipeline.settings.data import Normalization
from pipeline.system.errors import CheckpointError

_COUNTER = "num_batches_tracked"
"""Of a BN. Old files lack them; nothing here reads them."""
_AVERAGE = re.compile(r"(^|[._])ema")
_TRAINING_ONLY = re.compile("aux", re.IGNORECASE)
"""How torchvision names classifiers that only help in training (AuxLogits, aux1)."""
_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SHOWN = 3


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
    """What was renamed, what is missing and what is left over: a line each."""


def fit(path: Path, arch: str, num_classes: int | None = None) -> Fitted:
    """The network `arch` with the weights of the file or folder `path`.

    num_classes: None takes the last layer from the file, with as many classes as it has. A number leaves a fresh last
    layer for so many.

    Raises CheckpointError saying what the file holds, what was expected, and what lies nearest.
    """
    file = weight_files.read(path)
    _check_arch(path, arch, file)
    spec: Spec = file.header.model if file.header else {"arch": arch, "num_classes": 1}
    model = build(spec if num_classes is None else _with_classes(spec, num_classes))
    match = _match(model, file.holders, path)
    if problems := match.problems(with_head=num_classes is None):
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
        return Fitted(model, file.header.normalization, str(path), file.header.labels, True, match.said())
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
    fitted = fit(path, arch, card.num_classes if fresh_head else None)
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
    config: dict[str, Any] = {"arch": fitted.model.spec["arch"]}
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
    cure = "Set teacher.head to retrain: then a new last layer for these classes is trained on its features"
    if classes != card.num_classes:
        raise CheckpointError(f"{path} knows {classes} classes, but the data set has {card.num_classes}. {cure}.")
    if fitted.labels == card.labels or fitted.labels is None:
        return
    if sorted(fitted.labels) == sorted(card.labels):
        number = next(k for k, pair in enumerate(zip(fitted.labels, card.labels, strict=True)) if pair[0] != pair[1])
        raise CheckpointError(
            f"{path} knows the data set's classes in another order: its class {number} is "
            f"'{fitted.labels[number]}', that of the data '{card.labels[number]}'. {cure}; or save the rows of its "
            "last layer in the data's order, which is that of the labels in data/prepared/card.json."
        )
    # Another file may name the same classes by other words: what it is worth on the data, shows on the data.
    if fitted.is_ours:
        raise _unfit(path, "the data set's classes", card.labels, fitted.labels)


def _unfit(path: Path, what: str, expected: object, came: object) -> CheckpointError:
    expected, came = (_short(v) if isinstance(v, tuple) else str(v) for v in (expected, came))
    return CheckpointError(f"{path} does not fit: {what} is {expected}, but the file says {came}.")


def _with_classes(spec: Spec, num_classes: int) -> dict[str, Any]:
    """The spec of the same network with another last layer. A pruned network's is its body's."""
    body = {"body": _with_classes(spec["body"], num_classes)} if "body" in spec else {}
    return {**spec, "num_classes": num_classes, **body}


@dataclass(frozen=True)
class _Match:
    """Which tensors of a file are which of the network's."""

    expected: dict[str, Tensor]
    head: tuple[str, ...]
    """Names of the last layer's weight and, where it has one, bias."""
    holders: dict[str, dict[str, Tensor]]
    holder: str
    prefix: str
    """What the file has before the names of the network."""
    own: str
    """What the network has before the names of the file."""
    keys: dict[str, str]
    """Name in the network -> key in the holder."""

    @property
    def taken(self) -> dict[str, Tensor]:
        return {name: self.holders[self.holder][key] for name, key in self.keys.items()}

    def without_head(self) -> "_Match":
        """The same, with the last layer of the file left over."""
        keys = {name: key for name, key in self.keys.items() if name not in self.head}
        return _Match(self.expected, self.head, self.holders, self.holder, self.prefix, self.own, keys)

    def problems(self, with_head: bool) -> list[str]:
        """Why the network cannot be filled; none where it can."""
        missing = [
            name
            for name in self.expected
            if name not in self.keys and not name.endswith(_COUNTER) and (with_head or name not in self.head)
        ]
        # What has the network's prefix is the network's, or the network computes something else.
        unknown = [
            key
            for key in self._unused()
            if key.startswith(self.prefix)
            and not key.endswith(_COUNTER)
            and not _TRAINING_ONLY.match(name := key.removeprefix(self.prefix))
            and (with_head or not name.startswith(self._theirs(self.head[0].removesuffix("weight"))))
        ]
        found = []
        if missing:
            found.append(f"it lacks {_short(missing)}")
        if unknown:
            found.append(f"it has in addition {_short([key.removeprefix(self.prefix) for key in unknown])}")
        if self._unused():
            found += [self._nearest(name) for name in missing[:_SHOWN]]
        return found + self._misshapen(with_head)

    def _misshapen(self, with_head: bool) -> list[str]:
        found = []
        taken = self.taken
        classes = taken[self.head[0]].shape[:1] if self.head[0] in taken else ()
        for name, tensor in sorted(taken.items()):
            expected = self.expected[name].shape
            if name in self.head:
                if not with_head:
                    continue
                expected = torch.Size((*classes, *expected[1:]))
            if tensor.shape != expected:
                found.append(f"{name} is {tuple(tensor.shape)}, not {tuple(expected)}")
            elif not name.endswith(_COUNTER) and (tensor.dtype not in _TYPES or tensor.layout != torch.strided):
                found.append(f"{name} is of {tensor.dtype}, not of floating-point numbers")
        return found[:_SHOWN]

    def _nearest(self, name: str) -> str:
        """Of a tensor that is missing: the unused one of its shape, or else of another, whose name is most like its."""
        tensors, wanted = self.holders[self.holder], self._theirs(name)

        def distance(key: str) -> tuple[bool, float]:
            other_shape = tensors[key].shape != self.expected[name].shape
            return other_shape, -difflib.SequenceMatcher(None, key, wanted).ratio()

        near = min(self._unused(), key=distance)
        return f"nearest to {name} {tuple(self.expected[name].shape)} is {near} {tuple(tensors[near].shape)}"

    def said(self) -> tuple[str, str, str]:
        """What was renamed, what is missing and what is left over."""
        renamed = [f"'{self.holder}{self.prefix}' is taken off"] * bool(self.holder + self.prefix)
        renamed += [f"'{self.own}' is put before"] * bool(self.own)
        theirs, name = self.keys.get(self.head[0]), self.head[0]
        if theirs not in (None, self.prefix + self._theirs(name)):
            renamed.append(f"{theirs} is taken for {name}")
        absent = self.expected.keys() - self.keys.keys()
        counters = sum(name.endswith(_COUNTER) for name in absent)
        missing = [f"{counters} counters of batch normalisation, which nothing reads"] * bool(counters)
        missing += ["the last layer, which is made anew"] * (not absent.isdisjoint(self.head))
        groups = Counter(key.removeprefix(self.prefix).split(".")[0] for key in self._unused())
        for place, tensors in self.holders.items():
            if place != self.holder:
                groups[place.split(".")[0] or "beside it"] += len(tensors)
        left = [f"{name} ({count} {'tensor' if count == 1 else 'tensors'})" for name, count in groups.items()]
        lines = (("renamed", renamed), ("missing", missing), ("left over", left))
        renamed_line, missing_line, left_line = (f"{what}: {_short(found) or 'nothing'}" for what, found in lines)
        return renamed_line, missing_line, left_line

    def _unused(self) -> list[str]:
        used = set(self.keys.values())
        return [key for key in self.holders[self.holder] if key not in used]

    def _theirs(self, name: str) -> str:
        return name.removeprefix(self.own)


def _match(model: Classifier, holders: dict[str, dict[str, Tensor]], path: Path) -> _Match:
    """The dictionary and the prefix that fit most. Raises CheckpointError where several fit wholly and differ."""
    expected = model.state_dict()
    layer = [part for part in (model.fc.weight, model.fc.bias) if part is not None]
    head = tuple(name for part in layer for name, one in model.named_parameters() if one is part)
    weights = {name for name in expected if not name.endswith(_COUNTER) and name not in head}
    first = next(iter(expected)).split(".")[0] + "."
    owns = ("", first) if all(name.startswith(first) for name in weights) else ("",)
    fitting = Counter(
        (holder, key[:start], own)
        for own in owns
        for holder, tensors in holders.items()
        for key, tensor in tensors.items()
        for start in _starts(key)
        if (name := own + key[start:]) in weights and expected[name].shape == tensor.shape
    )
    most = max(fitting.values(), default=0)
    best = [place for place, count in fitting.items() if count == most] or [(next(iter(holders)), "", "")]
    best = [place for place in best if _AVERAGE.search(place[0] + place[1])] or best
    matches = [_placed(expected, head, holders, *place) for place in best]
    if most == len(weights) and any(_differ(matches[0], other) for other in matches[1:]):
        places = " and ".join(f"'{holder}{prefix}'" for holder, prefix, _ in best)
        raise CheckpointError(
            f"{path} holds several networks that fit equally well, below {places}. Save one of them alone, such as by "
            "torch.save(model.state_dict(), 'weights.pth')."
        )
    return matches[0]


def _starts(key: str) -> Iterator[int]:
    """Where the name of a tensor may begin in a key: at its start, and behind every dot."""
    yield 0
    yield from (dot.end() for dot in re.finditer(r"\.", key))


def _placed(
    expected: dict[str, Tensor],
    head: tuple[str, ...],
    holders: dict[str, dict[str, Tensor]],
    holder: str,
    prefix: str,
    own: str,
) -> _Match:
    tensors = holders[holder]
    keys = {name: key for name in expected if (key := prefix + name.removeprefix(own)) in tensors}
    found = _Match(expected, head, holders, holder, prefix, own, keys)
    if head[0] not in keys:
        keys |= dict(zip(head, _other_head(found), strict=False))
    return found


def _other_head(match: _Match) -> tuple[str, ...]:
    """The last layer where it has another name than the network's: the only linear layer that it can be, if any.

    It may lie beside the network, where that is a backbone within another module.
    """
    tensors, unused = match.holders[match.holder], match._unused()
    features = match.expected[match.head[0]].shape[1]
    around = match.prefix.rstrip(".").rpartition(".")[0]
    layers = [
        key.removesuffix("weight")
        for key in unused
        if key.startswith(around)
        and key.endswith("weight")
        and tensors[key].dim() == 2
        and tensors[key].shape[1] == features
        and not _TRAINING_ONLY.match(key.removeprefix(match.prefix))
    ]
    if len(layers) != 1:
        return ()
    keys = tuple(layers[0] + name.rpartition(".")[2] for name in match.head)
    return keys if all(key in tensors for key in keys) else ()


def _differ(one: _Match, other: _Match) -> bool:
    mine, theirs = one.taken, other.taken
    return mine.keys() != theirs.keys() or any(not torch.equal(mine[name], theirs[name]) for name in mine)


def _short(values: list[str] | tuple[str, ...]) -> str:
    text = ", ".join(values)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(values)})"
