"""Lay a preset over params.yaml: numbers change, comments and order stay.

A preset is a YAML file with the keys of params.yaml that it sets. Maps are merged key by key, everything else is
replaced, with one exception: where it lists `distill.methods`, those are the methods that are trained, and no others.
Settings of methods that a preset does not ask for, but knows how to train, stand under its key `method_settings`. The
result is checked as a whole before anything is written.
"""

import copy
import io
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from pipeline.settings.params import Params, check_all
from pipeline.settings.reading import parse, read_yaml
from pipeline.system.errors import ParamsError
from pipeline.system.files import replacing


def apply(preset: Path, target: Path) -> list[str]:
    """Change `target` (params.yaml) as `preset` says; returns one line per changed key: "key: old -> new".

    `method_settings` of methods that are not trained are passed over.

    Raises ParamsError, with `target` untouched, when either file is unreadable or the result is not valid.
    """
    yaml = _keeping_comments()
    values, (overlay, known) = _read(yaml, target), _read_preset(yaml, preset)
    changes = _merge(values, overlay, "")
    methods, listed = _methods(values), _methods(overlay)
    for name in [name for name in methods if listed and name not in listed]:
        del methods[name]
        changes.append(f"distill.methods.{name}: removed, because {preset} lists {', '.join(listed)}")
    changes += _merge(methods, {name: known[name] for name in known if name in methods}, "distill.methods.")
    check_all(parse(Params, _plain(values), "", f"{preset} over {target}"))
    _write(yaml, values, target)
    return changes


def change(overlay: Mapping[str, Any], target: Path, who: str) -> list[str]:
    """Change `target` (params.yaml) as plain data with its keys say, as a preset would, in the name of `who`.

    Returns one line per changed key. Raises ParamsError, with `target` untouched, when the result is not valid.
    """
    yaml = _keeping_comments()
    values = _read(yaml, target)
    changes = _merge(values, overlay, "")
    check_all(parse(Params, _plain(values), "", f"{who} over {target}"))
    _write(yaml, values, target)
    return changes


def overlaid(target: Path, layers: Iterable[Path]) -> dict[str, Any]:
    """What `target` would hold with every preset of `layers` laid over it, as plain data; nothing is written.

    `distill.methods` then holds the settings of every method that any of them knows, for the caller to choose one.
    """
    yaml = YAML()
    values = _read(yaml, target)
    for preset in layers:
        overlay, known = _read_preset(yaml, preset)
        _merge(values, overlay, "")
        _merge(values, {"distill": {"methods": known}} if known else {}, "")
    plain: dict[str, Any] = _plain(values)
    return plain


def _keeping_comments() -> YAML:
    yaml = YAML()
    yaml.width = 120
    # By default ruamel writes null as nothing at all, which reads like something forgotten.
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _write(yaml: YAML, values: Mapping[str, Any], target: Path) -> None:
    text = io.StringIO()
    yaml.dump(values, text)
    with replacing(target) as scratch:
        scratch.write_text(text.getvalue(), encoding="utf-8")


def _read(yaml: YAML, path: Path) -> MutableMapping[str, Any]:
    values = read_yaml(path, yaml)
    if not isinstance(values, MutableMapping):
        raise ParamsError(f"{path}: expected a map of sections, as in params.yaml.")
    return values


def _read_preset(yaml: YAML, path: Path) -> tuple[MutableMapping[str, Any], Mapping[str, Any]]:
    """What a preset sets, and its `method_settings`."""
    overlay = _read(yaml, path)
    known = overlay.pop("method_settings", None) or {}
    if not isinstance(known, Mapping):
        raise ParamsError(f"{path}: method_settings must be a map from the names of methods to their settings.")
    return overlay, known


def _methods(values: Mapping[str, Any]) -> Any:
    """The map `distill.methods`, or an empty one where there is none."""
    distill = values.get("distill")
    methods = distill.get("methods") if isinstance(distill, Mapping) else None
    return methods if isinstance(methods, MutableMapping) else {}


def _merge(values: MutableMapping[str, Any], overlay: Mapping[str, Any], prefix: str) -> list[str]:
    changes = []
    before = None
    for key, new in overlay.items():
        old = values.get(key)
        if isinstance(new, Mapping) and isinstance(old, MutableMapping):
            changes += _merge(old, new, f"{prefix}{key}.")
        elif key not in values or _plain(old) != _plain(new):
            changes.append(f"{prefix}{key}: {_plain(old) if key in values else '(not set)'} -> {_plain(new)}")
            if key not in values and isinstance(values, CommentedMap):
                # Behind the key that the overlay has in front of it, or first: not behind the empty line that ends a
                # section.
                values.insert(0 if before is None else list(values).index(before) + 1, key, copy.deepcopy(new))
            else:
                values[key] = copy.deepcopy(new)
        before = key
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
