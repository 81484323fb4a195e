"""Students that a survey tries: networks by name, and those that can be cut from the teacher."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.models import base, cutting
from pipeline.models.base import Classifier
from pipeline.models.fold import folded
from pipeline.settings.networks import Pruned
from pipeline.system import registry
from pipeline.system.errors import ParamsError

ALL = "all"
CUT = "pruned"
SHARES = (0.7, 0.5, 0.33, 0.25, 0.15, 0.1)
"""Of the teacher's multiply-accumulates, that students cut from it have at most."""
WAYS: dict[str, dict[str, Any]] = {
    "by 16": {"cut": "channels", "round_to": 16},
    "by 8": {"cut": "channels", "round_to": 8},
    "by blocks": {"cut": "blocks"},
}
"""How these students are cut: in multiples of so many channels, or by whole blocks."""


@dataclass(frozen=True)
class Candidate:
    """One student that could be: its name in the survey, and what params.yaml would say to have it."""

    name: str
    student: dict[str, Any]
    """Keys of the section `student`: arch, and of one that is cut from its teacher, pruned."""
    must_be_smaller: bool = False
    """Nobody asked for it by name, so that it is left out where it is not smaller than the teacher."""

    def build(self, teacher: Classifier, image_px: int, teacher_px: int) -> Classifier:
        """The network, with random weights and as many classes as the teacher, and the size of each one's images.

        Raises ParamsError where there is no such network, where it cannot take such images, and as `student_of` does.
        """
        if self.student["arch"] == CUT:
            settings = Pruned(**self.student[CUT])
            return cutting.student_of(teacher, image_px, settings, lambda candidate: 0.0, teacher_px=teacher_px)
        network = base.build(self._spec(teacher, image_px))
        base.shapes(network, image_px)
        return network

    def macs(self, teacher: Classifier, image_px: int) -> int:
        """Multiply-accumulates, once fused, of a network that is not cut from the teacher."""
        return base.count_macs(folded(base.build(self._spec(teacher, image_px))), image_px)

    def _spec(self, teacher: Classifier, image_px: int) -> base.Spec:
        return base.spec_of(self.student["arch"], teacher.spec["num_classes"], image_px)


def listed(names: str) -> list[Candidate]:
    """Candidates of names that are separated by commas: networks, timm's with wildcards, `pruned`, or `all`.

    `pruned` means all students that can be cut from the teacher; `all` means these and every size of the families here.

    Raises ParamsError for a name that nothing has, with the nearest, and for wildcards of other families than timm.
    """
    found: dict[str, Candidate] = {}
    for name in (part.strip() for part in names.split(",")):
        for candidate in _every() if name == ALL else _cuts() if name == CUT else map(_named, _resolved(name)):
            found.setdefault(candidate.name, candidate)
    return list(found.values())


def _every() -> Iterator[Candidate]:
    modules = (registry.find("pipeline.models", name, "arch") for name in registry.names("pipeline.models"))
    for module in modules:
        for arch in getattr(module, "SIZES", ()):
            yield Candidate(arch, {"arch": arch}, must_be_smaller=True)
    yield from _cuts()


def _cuts() -> Iterator[Candidate]:
    for name, way in WAYS.items():
        for share in SHARES:
            yield Candidate(f"{CUT} {share:g} {name}", {"arch": CUT, CUT: {"share_of_macs": share, **way}})


def _named(arch: str) -> Candidate:
    return Candidate(arch, {"arch": arch})


def _resolved(name: str) -> list[str]:
    """The networks that one name of the list means."""
    try:
        if name.startswith("timm/"):
            found: list[str] = base.family(name).matching(name)
            return found
        if any(sign in name for sign in "*?["):
            raise ParamsError(
                f"'{name}' has a wildcard, which only names of timm may have, such as timm/mobilenetv3_*. Write the "
                f"names out, or {ALL} for every network here."
            )
        # Without memory for its weights: this only asks whether there is one.
        with torch.device("meta"):
            base.build({"arch": name, "num_classes": 1})
    except ParamsError as error:
        raise ParamsError(f"--candidates: {error}") from error
    return [name]
