"""Fragments of the page: Jinja templates, filled with values that are escaped unless they are markup already."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.report.findings import formats

_HERE = Path(__file__).parent
_MACROS = "macros.html.jinja"


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading of its own."""

    key: str
    """Of links into the page."""
    title: str
    html: Markup


def fill(template: str, **values: object) -> Markup:
    """A template of this folder or of sections/, filled; `f` in it are the formats, `m` the macros."""
    environment = _environment()
    macros = environment.get_template(_MACROS).module
    return Markup(environment.get_template(template).render(f=formats, m=macros, **values))


@cache
def _environment() -> Environment:
    loader = FileSystemLoader([_HERE, _HERE / "sections"])
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
