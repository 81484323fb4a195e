"""Lay a preset over params.yaml: numbers change, comments and order stay.

A preset is a YAML file with the keys of params.yaml that it sets, and nothing else. Maps are merged key by key,
everything else is replaced. The result is checked as a whole before anything is written.
"""

import copy
import io
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.settings.params import Params, check_all
from pipeline.settings.reading import parse, read_yaml
from pipeline.system.errors import ParamsError
from pipeline.system.files import replacing


def apply(preset: Path, target: Path) -> list[str]:
    """Change `target` (params.yaml) as `preset` says; returns one line per changed key: "key: old -> new".

    Raises ParamsError, with `target` untouched, when either file is unreadable or the result is not valid.
    """
    yaml = YAML()
    yaml.width = 120
    # By default ruamel writes null as nothing at all, which reads like something forgotten.
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    yaml.indent(mapping=2, sequence=4, offset=2)
    values, overlay = _read(yaml, target), _read(yaml, preset)
    changes = _merge(values, overlay, "")
    check_all(parse(Params, _plain(values), "", f"{preset} over {target}"))
    text = io.StringIO()
    yaml.dump(values, text)
    with replacing(target) as scratch:
        scratch.write_text(text.getvalue(), encoding="utf-8")
    return changes


def overlaid(target: Path, layers: Iterable[Path]) -> dict[str, Any]:
    """What `target` would hold with every preset of `layers` laid over it, as plain data; nothing is written."""
    yaml = YAML()
    values = _read(yaml, target)
    for preset in layers:
        _merge(values, _read(yaml, preset), "")
    plain: dict[str, Any] = _plain(values)
    return plain


def _read(yaml: YAML, path: Path) -> MutableMapping[str, Any]:
    values = read_yaml(path, yaml)
    if not isinstance(values, MutableMapping):
        raise ParamsError(f"{path}: expected a map of sections, as in params.yaml.")
    return values


def _merge(values: MutableMapping[str, Any], overlay: Mapping[str, Any], prefix: str) -> list[str]:
    changes = []
    for key, new in overlay.items():
        old = values.get(key)
        if isinstance(new, Mapping) and isinstance(old, MutableMapping):
            changes += _merge(old, new, f"{prefix}{key}.")
        elif key not in values or _plain(old) != _plain(new):
            changes.append(f"{prefix}{key}: {_plain(old) if key in values else '(not set)'} -> {_plain(new)}")
            values[key] = copy.deepcopy(new)
    return changes


def _plain(value: Any) -> Any:
    """Without ruamel's comment-carrying types."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, bool) or value is None:
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value
