"""Figures that others printed, to stand beside ours where data and networks are the same."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field
from ruamel.yaml import YAML

from pipeline.settings.reading import parse, read_yaml
from pipeline.settings.section import Positive, Section

Top1 = Annotated[float, Field(ge=0, le=100)]
TEACHER = "teacher"
_CLASSES = 100
_IMAGE_PX = 32
_FIRST_LABELS = ("apple", "aquarium_fish", "baby")
"""Of CIFAR-100, whose classes stand in the order of the alphabet."""


class Table(Section):
    """What one source printed, made in one way."""

    source: str
    teachers: str
    """Whose they are."""
    epochs: Positive
    chosen: str
    """Which epoch's figure it is."""
    pairs: dict[str, dict[str, Top1]]
    """Test top-1 in percent by pair and method; also of `teacher`, and of `vanilla`, the student alone."""


class Figure(NamedTuple):
    """Test top-1 in percent on CIFAR-100, and where it stands."""

    top1: float
    alone: float | None
    """Of the student without a teacher, by the same source."""
    table: Table
    augmented: bool
    """Made with other views of the images than crops and flips, or by a teacher that learned from such."""

    def __str__(self) -> str:
        return shown(self.top1, self.augmented)


def shown(top1: float, augmented: bool) -> str:
    """A figure for people, with a star where it must not be ranked with the rest."""
    return f"{top1:.2f}{'*' if augmented else ''}"


class Variant(Section):
    """A row of figures of one method that is set up otherwise than by default."""

    method: str
    settings: dict[str, Any] = Field(default={})
    """Those that have this value in that form."""
    above_zero: tuple[str, ...] = ()
    """Those that are above 0 in it, and 0 by default."""

    def is_of(self, settings: Mapping[str, Any]) -> bool:
        """Whether a method with these settings, defaults left out, has this form."""
        alike = all(settings.get(key) == value for key, value in self.settings.items())
        return alike and all(settings.get(key, 0) > 0 for key in self.above_zero)


class Published(Section):
    """All tables, in the order in which they count."""

    networks: dict[str, tuple[str, str]]
    """Pair -> teacher and student."""
    variants: dict[str, Variant]
    """By the name of their row."""
    plain: tuple[Table, ...]
    augmented: tuple[Table, ...]

    def row(self, pair: str) -> dict[str, Figure]:
        """The figures of a pair by method; of a method that several tables name, that of the first one."""
        found: dict[str, Figure] = {}
        for augmented, tables in ((False, self.plain), (True, self.augmented)):
            for table in tables:
                figures = table.pairs.get(pair, {})
                for name, top1 in figures.items():
                    found.setdefault(name, Figure(top1, figures.get("vanilla"), table, augmented))
        return found

    def row_name(self, method: str, settings: Mapping[str, Any]) -> str:
        """Which row has the figures of a method under these settings of it; that row may have none."""
        for name, variant in self.variants.items():
            if variant.method == method and variant.is_of(settings):
                return name
        return method

    def beside(self, teacher: str, student: str, labels: tuple[str, ...], seen_px: set[int]) -> dict[str, Figure]:
        """The same for two networks; nothing for other networks, classes than CIFAR-100's, and images than of 32 px.

        `seen_px`: height and width of the images that the two see.
        """
        if len(labels) != _CLASSES or labels[: len(_FIRST_LABELS)] != _FIRST_LABELS or seen_px != {_IMAGE_PX}:
            return {}
        pairs = (pair for pair, networks in self.networks.items() if networks == (teacher, student))
        return self.row(next(pairs, ""))


def read(path: Path) -> Published:
    """The tables of a YAML file. Raises ParamsError, naming it, where it does not hold such."""
    return parse(Published, read_yaml(path, YAML(typ="safe", pure=True)), "", str(path))


def sources(figures: Iterable[tuple[str, Figure]]) -> list[str]:
    """A sentence for each table that figures come from, with the names that go with them, each once."""
    names: dict[str, dict[str, None]] = {}
    for name, figure in figures:
        table, views = figure.table, ""
        if figure.augmented:
            views = ", with other views of the images than crops and flips (*)"
        said = f"{table.source}: {table.epochs} epochs{views}; epoch: {table.chosen}; teachers: {table.teachers}"
        names.setdefault(said, {})[name] = None
    return [f"{', '.join(methods)} by {said}." for said, methods in names.items()]
