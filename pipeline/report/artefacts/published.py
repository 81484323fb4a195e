"""Figures that others printed, to stand beside ours where data and networks are the same."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML

from pipeline.settings.reading import read_yaml
from pipeline.system.errors import PupilError

_CLASSES = 100
_FIRST_LABELS = ("apple", "aquarium_fish", "baby")
"""Of CIFAR-100, whose classes stand in the order of the alphabet."""
_Figures = TypeAdapter(dict[str, dict[str, Annotated[float, Field(ge=0, le=100)] | tuple[str, str]]])


def published(path: Path, teacher: str, student: str, labels: tuple[str, ...]) -> dict[str, float]:
    """Test top-1 in percent on CIFAR-100 by method, and of the teacher; empty for other data and for other networks.

    path: YAML of pair -> {networks: [teacher, student], teacher: top-1, METHOD: top-1}. Raises PupilError where it is
    not that.
    """
    try:
        pairs = _Figures.validate_python(read_yaml(path, YAML(typ="safe", pure=True)))
    except ValidationError as error:
        raise PupilError(f"{path} is not a table of published figures: {error}") from error
    if len(labels) != _CLASSES or labels[: len(_FIRST_LABELS)] != _FIRST_LABELS:
        return {}
    for figures in pairs.values():
        if figures.get("networks") == (teacher, student):
            return {name: figure for name, figure in figures.items() if isinstance(figure, float)}
    return {}
