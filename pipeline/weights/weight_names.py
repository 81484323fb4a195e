"""Which tensors of a weights file are which of a network's, where file and network name them differently.

Names decide, with shapes. A file may keep the network in one of several dictionaries (state_dict, model_ema), may put
something before every name (module., _orig_mod., backbone.), and this project does so too (timm's networks lie in
net.). The dictionary and the prefix that fit most tensors of the network are taken, of equally good ones the average
(EMA). Every tensor of the network has to be there, in its shape, and no other of the same network may be left.

Weights are never matched by their order or shapes alone: layers of one shape would be mixed up unseen.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.models.base import Classifier
from pipeline.system.errors import CheckpointError

_COUNTER = "num_batches_tracked"
"""Of a BN. Old files lack them; nothing here reads them."""
_AVERAGE = re.compile(r"(^|[._])ema")
_TRAINING_ONLY = re.compile("aux", re.IGNORECASE)
"""How torchvision names classifiers that only help in training (AuxLogits, aux1)."""
_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SHOWN = 3


@dataclass(frozen=True)
class Match:
    """Which tensors of a file are which of the network's."""

    expected: dict[str, Tensor]
    """All of the network's, by their names."""
    head: tuple[str, ...]
    """Names of the last layer's weight and, where it has one, bias."""
    holders: dict[str, dict[str, Tensor]]
    """The file's dictionaries of tensors, by their place."""
    holder: str
    """The place of the one that holds the network."""
    prefix: str
    """What the file has before the names of the network."""
    own: str
    """What the network has before the names of the file."""
    keys: dict[str, str]
    """Name in the network -> key in the holder."""

    @property
    def taken(self) -> dict[str, Tensor]:
        """The network's tensors, as far as the file has them."""
        return {name: self.holders[self.holder][key] for name, key in self.keys.items()}

    def without_head(self) -> "Match":
        """The same, with the last layer of the file left over."""
        keys = {name: key for name, key in self.keys.items() if name not in self.head}
        return replace(self, keys=keys)

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
            found.append(f"it lacks {short(missing)}")
        if unknown:
            found.append(f"it has in addition {short([key.removeprefix(self.prefix) for key in unknown])}")
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
        renamed_line, missing_line, left_line = (f"{what}: {short(found) or 'nothing'}" for what, found in lines)
        return renamed_line, missing_line, left_line

    def _unused(self) -> list[str]:
        used = set(self.keys.values())
        return [key for key in self.holders[self.holder] if key not in used]

    def _theirs(self, name: str) -> str:
        return name.removeprefix(self.own)


def match(model: Classifier, holders: dict[str, dict[str, Tensor]], path: Path) -> Match:
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
) -> Match:
    tensors = holders[holder]
    keys = {name: key for name in expected if (key := prefix + name.removeprefix(own)) in tensors}
    found = Match(expected, head, holders, holder, prefix, own, keys)
    if head[0] not in keys:
        keys |= dict(zip(head, _other_head(found), strict=False))
    return found


def _other_head(match: Match) -> tuple[str, ...]:
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


def _differ(one: Match, other: Match) -> bool:
    mine, theirs = one.taken, other.taken
    return mine.keys() != theirs.keys() or any(not torch.equal(mine[name], theirs[name]) for name in mine)


def short(values: list[str] | tuple[str, ...]) -> str:
    """Names on one line; of many, the first ones and their number."""
    text = ", ".join(values)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(values)})"
