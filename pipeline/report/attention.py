"""The report's section on attention: which teacher block attended to which student block, and where networks look."""

from collections.abc import Sequence
from math import exp, log
from pathlib import Path
from typing import Annotated, Self

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from pydantic import Field, model_validator

from pipeline.report.artefacts.records import Record, read
from pipeline.report.findings import formats
from pipeline.report.pictures import heat

_TEMPLATE = Path(__file__).with_name("attention.html.jinja")
_STYLE = Path(__file__).with_name("attention.css")
_MOST_EPOCHS = 60
"""Columns of a course; of longer trainings as many epochs, evenly spaced."""


class Attention(Record):
    """Mean attention after one epoch, as `Method.observe` of afd writes it."""

    rows: tuple[str, ...]
    """Teacher blocks."""
    columns: tuple[str, ...]
    """Student blocks."""
    weights: tuple[tuple[float, ...], ...]
    """Rows sum to 1."""
    images: int

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if [len(row) for row in self.weights] != [len(self.columns)] * len(self.rows):
            raise ValueError(
                "the weights must have one row for each teacher block, with one number for each student block"
            )
        return self

    @property
    def largest(self) -> float:
        """The largest weight."""
        return max(map(max, self.weights))

    @property
    def width(self) -> float:
        """Over how many student blocks a teacher block spreads: exp of the entropy, mean over rows, in [1, columns]."""
        return sum(exp(-sum(w * log(w) for w in row if w > 0)) for row in self.weights) / len(self.rows)

    def favourite(self, row: int) -> tuple[str, float]:
        """The student block that a teacher block attends to most, and its weight."""
        weight, column = max(zip(self.weights[row], self.columns, strict=True), key=lambda pair: pair[0])
        return column, weight


class Epoch(Record):
    """One line of a history, of which only the attention is read."""

    epoch: int
    attention: Attention | None = None


class History(Record):
    """history.json of one student."""

    val_seen_in_training: bool
    epochs: tuple[Epoch, ...]


class Course(Record):
    """The attention of one student over its training."""

    method: str
    seed: int
    seen: Annotated[tuple[tuple[int, Attention], ...], Field(min_length=1)]
    """Epochs, counted from 1, and the attention after them."""
    val_seen_in_training: bool
    """The validation images, which it is a mean over, were trained on."""

    def pictures(self) -> tuple[tuple[int, Attention], ...]:
        """The first epoch, the middle one and the last, as far as there are."""
        return _evenly(self.seen, 3)

    def strip(self, row: int) -> list[tuple[float, ...]]:
        """The weights of one teacher block: a line for each student block, a number for each of at most 60 epochs."""
        return list(zip(*(attention.weights[row] for _, attention in _evenly(self.seen, _MOST_EPOCHS)), strict=True))

    @property
    def largest(self) -> float:
        """The largest weight of all epochs."""
        return max(attention.largest for _, attention in self.seen)


class Image(Record):
    """A test image as networks see it."""

    position: int
    label: str
    png: str
    """Base64."""


class Prediction(Record):
    """What a network says of an image."""

    label: str
    confidence: float
    """In [0, 1]."""


class Stage(Record):
    """Energy maps behind one stage, a grey PNG in base64 for each image."""

    name: str
    height: int
    width: int
    maps: tuple[str, ...]


class Looks(Record):
    """What one network says of the images, and where it looks."""

    name: str
    arch: str
    predictions: tuple[Prediction, ...]
    stages: tuple[Stage, ...]


class EnergyMaps(Record):
    """energy_maps.json."""

    image_px: int
    """Height and width of the images."""
    images: tuple[Image, ...]
    networks: tuple[Looks, ...]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for network in self.networks:
            counts = [len(network.predictions), *(len(stage.maps) for stage in network.stages)]
            if counts != [len(self.images)] * len(counts):
                raise ValueError(
                    f"{network.name} does not have one prediction, and one map of each stage, for each image"
                )
        return self

    def stage_names(self) -> tuple[str, ...]:
        """Of the network that has most stages."""
        return max((tuple(stage.name for stage in network.stages) for network in self.networks), key=len)


class Shown(Record):
    """All that the section shows."""

    courses: tuple[Course, ...]
    """Of the methods that have an attention."""
    energy: EnergyMaps


def collect(students: Path, methods: Sequence[str], seed: int, energy_maps: Path) -> Shown:
    """Read METHOD/SEED/history.json below `students` for one seed, and the file `energy_maps`.

    Raises PupilError naming the first file that is missing or torn, and the stage that writes it.
    """
    courses = []
    for method in methods:
        history = read(History, students / method / str(seed) / "history.json", "distill")
        seen = tuple((it.epoch, it.attention) for it in history.epochs if it.attention is not None)
        if seen:
            on = history.val_seen_in_training
            courses.append(Course(method=method, seed=seed, seen=seen, val_seen_in_training=on))
    return Shown(courses=tuple(courses), energy=read(EnergyMaps, energy_maps, "energy_maps"))


def section(shown: Shown) -> Markup:
    """A <section> for the page, which needs the rules of `style` and images from data: URIs. Names are escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return Markup(template.render(shown=shown, f=formats, cells=heat.cells))


def style() -> Markup:
    """CSS rules of the section, for the page's <style>."""
    return Markup(_STYLE.read_text(encoding="utf-8"))


def _evenly(epochs: tuple[tuple[int, Attention], ...], most: int) -> tuple[tuple[int, Attention], ...]:
    """The first, the last, and what lies evenly between, each once."""
    if len(epochs) <= most:
        return epochs
    return tuple(epochs[round(i * (len(epochs) - 1) / (most - 1))] for i in range(most))
