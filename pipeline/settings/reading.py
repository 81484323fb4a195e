"""From a YAML file to checked values: every problem is named by its key, with what came and what is allowed."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.system import registry
from pipeline.system.errors import ParamsError

S = TypeVar("S", bound=BaseModel)


def read_yaml(path: Path, yaml: YAML) -> Any:
    """What a YAML file holds. Raises ParamsError, naming it, where it cannot be read or is not valid."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParamsError(f"{path}: expected a readable YAML file ({error.strerror}).") from error
    except (YAMLError, UnicodeDecodeError) as error:
        # Behind an empty line ruamel only explains how to switch a check off.
        problem = str(error).split("\n\n")[0]
        raise ParamsError(f"{path} is not valid YAML: {problem}") from error


def parse(model: type[S], raw: object, prefix: str, where: str) -> S:
    """A checked section from plain values; `prefix` is its dotted key, `where` the file to name in an error.

    Goes through JSON because only there strict means what a person means: a list may become a tuple, a string or a
    number in quotes may not become a number.
    """
    try:
        return model.model_validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        lines = [_explain(model, item, prefix) for item in error.errors(include_url=False)]
        raise ParamsError(f"{where}: " + " ".join(lines)) from error
    except TypeError as error:
        raise ParamsError(f"{where}: {prefix or 'the file'} holds a value that is not plain data ({error}).") from error


def _explain(model: type[BaseModel], item: Any, prefix: str) -> str:
    """One sentence for one pydantic error: the dotted key, what came, what is allowed."""
    location = [str(part) for part in item["loc"]]
    key = ".".join([*([prefix] if prefix else []), *location]) or "the file"
    if item["type"] == "extra_forbidden":
        known = list(_section_at(model, location[:-1]).model_fields)
        return f"{key} is not a key{registry.nearest(location[-1], known)}; known here: {', '.join(known)}."
    if item["type"] == "value_error" and isinstance(item["input"], dict):
        # A rule between keys, which it names itself: the whole section would only hide it.
        return f"{key}: {item['msg'].removeprefix('Value error, ')}."
    return f"{key} is {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}."


def _section_at(model: type[BaseModel], location: list[str]) -> type[BaseModel]:
    """The section that holds a key, found by walking down from the outermost one."""
    for name in location:
        annotation = model.model_fields[name].annotation if name in model.model_fields else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        inner = [kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            break
        model = inner[0]
    return model
