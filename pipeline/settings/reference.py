"""docs/params.md and docs/methods.md as text, from the models behind params.yaml and the headers of the methods."""

import inspect
import json
import re
from collections.abc import Mapping
from typing import Any

from pipeline.system import registry

MADE = "<!-- Made by `make docs`; edit the code that it is made from. -->"
Schema = Mapping[str, Any]
LINKS = (
    (r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)"),
    (r"doi:(10\.[\w./()-]*\w)", r"[doi:\1](https://doi.org/\1)"),
)


def params_page(schema: Schema) -> str:
    """Every key of params.yaml but the methods' own; `schema` is `params.json_schema()`."""
    text = [
        MADE,
        "# The settings of params.yaml",
        "This page lists every key with its default and its range. `params.yaml` itself sets smaller numbers for a "
        "first run. A key that is left out has its default, but preflight refuses a file without a section or a key "
        "that a stage of `dvc.yaml` lists. An unknown key or a value outside of its range is refused by name before "
        "anything runs. [methods.md](methods.md) has the settings under `distill.methods`.",
    ]
    shared = {name for name in schema["$defs"] if str(schema).count(f"'#/$defs/{name}'") > 1}
    for key, section in schema["properties"].items():
        text += _section(key, _resolved(section, schema), schema, shared, "##")
    for name in sorted(shared):
        places = " and ".join(f"`{place}`" for place in _places(schema, name))
        section = schema["$defs"][name]
        text += [f"## {name.lower()}", f"At {places}. {section['description']}", _table(section, schema)]
    return "\n\n".join(text) + "\n"


def methods_page(schema: Schema, published: Mapping[str, Mapping[str, str]], pairs: Mapping[str, str]) -> str:
    """A card for each method, by name: its header, what it needs, its settings, and published figures.

    published: top-1 on CIFAR-100 in percent by pair and method, as text; pairs: what a pair's name stands for.
    """
    listed = "; ".join(f"{pair} {networks}" for pair, networks in pairs.items() if len(pair) == 1)
    text = [
        MADE,
        "# The methods",
        "This page has a card for each method, which is one file of `pipeline/distillation/`. A loss is a sum of "
        "weighted terms. CE is the cross-entropy with the labels, KL_T is the softened divergence of Hinton's KD at "
        "temperature T, and `s` and `t` stand for student and teacher.",
        "Published figures are test top-1 in percent on CIFAR-100, with the student alone in brackets where the source "
        "gives it. A star marks figures that were made with other views of the images than crops and flips: they must "
        "not be ranked with the rest. [results/published_top1.yaml](../results/published_top1.yaml) has all figures "
        f"with their sources. The pairs are: {listed}.",
        "Methods that neighbouring toolboxes have and this one does not: AB, FSP and FT (factor transfer) train in two "
        "phases, with an optimiser for each, and a training here has one. HSAKD and SSKD train heads beside the "
        "teacher before any student, on turned copies of every image, which takes four times the work of a step. MGD "
        "has no defined recipe for CIFAR-100. Papers also report sums of two methods (WTTM with CRD or ITRD, DKD on "
        "standardised logits); here a run has one method, and of the others only Hinton's KD term can be added to it.",
    ]
    properties = schema["$defs"]["Distill"]["properties"]["methods"]["properties"]
    for name in registry.names("pipeline.distillation"):
        module = registry.find("pipeline.distillation", name, "distill.methods")
        text += _card(name, inspect.getdoc(module) or "", module.Method)
        text.append(_table(properties[name], schema))
        if figures := [f"{pair} {row[name]}" for pair, row in published.items() if name in row]:
            text.append(f"Published: {', '.join(figures)}.".replace("*", r"\*"))
    return "\n\n".join(text) + "\n"


def _card(name: str, header: str, method: Any) -> list[str]:
    title, *rest = header.split("\n\n")
    # Formulas and lists of symbols are laid out by spaces: all up to the last such paragraph stays as it is.
    laid_out = [number for number, part in enumerate(rest) if re.search(r"^ |^\S.*\S {2,}\S", part, re.MULTILINE)]
    end = laid_out[-1] + 1 if laid_out else 0
    start = laid_out[0] if laid_out else 0
    needs = []
    if not method.needs_teacher:
        needs.append("no teacher")
    elif method.reads is None and method.views == 1:
        needs.append("whole maps of the teacher, so that it runs in every step, cache or not")
    elif method.reads is not None:
        needs.append(f"of the teacher {', '.join(f'`{part}`' for part in method.reads)}, which a cache can keep")
    if method.views == 2:
        needs.append("a weak and a strong view of each image, so that no cache can answer for the teacher")
    if method.smallest_batch > 1:
        needs.append(f"at least {method.smallest_batch} images in a batch")
    if method.fewest_classes > 2:
        needs.append(f"at least {method.fewest_classes} classes")
    if not method.takes_mixed:
        needs.append("images that have a label and are not mixed")
    elif not method.needs_teacher:
        needs.append("images that have a label")
    if method.compares_logits:
        needs.append("a teacher of the same classes")
    block = "\n\n".join(rest[start:end])
    return [
        f"## {name}",
        *map(_prose, (title, *rest[:start])),
        *([f"```text\n{block}\n```"] if block else []),
        *map(_prose, rest[end:]),
        f"Needs: {'; '.join(needs)}.",
    ]


def _prose(text: str) -> str:
    """A paragraph as one line of Markdown, with links for what it cites. A star or underscore would set type."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    prose = "".join(part if part.startswith("`") else re.sub(r"([*_<])", r"\\\1", part) for part in parts)
    for pattern, link in LINKS:
        prose = re.sub(pattern, link, prose)
    return prose


def _section(key: str, section: Schema, schema: Schema, shared: set[str], level: str) -> list[str]:
    text = [f"{level} {key}", section["description"], _table(section, schema)]
    for name, value in section["properties"].items():
        inner = _resolved(value, schema)
        if inner.get("title") in shared or name == "methods":
            continue
        if value.keys() & {"properties"}:
            for plugin, settings in value["properties"].items():
                text += _section(f"{key}.{name}.{plugin}", settings, schema, shared, "###")
        elif "properties" in inner:
            text += _section(f"{key}.{name}", inner, schema, shared, "###")
    return text


def _places(schema: Schema, name: str) -> list[str]:
    """Dotted keys whose value is the section called `name`."""
    return [
        f"{key}.{inner}"
        for key, section in schema["properties"].items()
        for inner, value in _resolved(section, schema)["properties"].items()
        if _resolved(value, schema).get("title") == name
    ]


def _resolved(value: Schema, schema: Schema) -> Schema:
    """The section that a key refers to, be it null or not; the key itself where it refers to none."""
    for option in (value, *value.get("anyOf", [])):
        if "$ref" in option:
            found: Schema = schema["$defs"][option["$ref"].rpartition("/")[2]]
            return found
    return value


def _table(section: Schema, schema: Schema) -> str:
    rows = ["| key | default | allowed | |", "| :-- | :-- | :-- | :-- |"]
    for name, value in section["properties"].items():
        inner = _resolved(value, schema)
        grouped = "properties" in inner or "additionalProperties" in value
        required = name in section.get("required", [])
        default = (
            "required" if required else "see there" if grouped and value.get("default") else _code(value["default"])
        )
        meaning = value.get("description") or inner.get("description") or ""
        allowed = [_allowed(option, schema) for option in value.get("anyOf", [value])]
        cells = [f"`{name}`", default, " or ".join(allowed), " ".join(meaning.split())]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _allowed(value: Schema, schema: Schema) -> str:
    if "enum" in value:
        return ", ".join(f"`{option}`" for option in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if "properties" in _resolved(value, schema) or value.get("type") == "object":
        return "a section"
    if value["type"] == "array":
        if "prefixItems" in value:
            return f"{len(value['prefixItems'])} numbers"
        fewest = f", at least {value['minItems']}" if "minItems" in value else ""
        differing = ", all different" if value.get("uniqueItems") else ""
        return f"list of {_allowed(value['items'], schema)}{fewest}{differing}"
    words = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`", "string": "text"}
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {value[key]:,}" for key, sign in signs.items() if key in value]
    return f"{words.get(value['type'], value['type'])} {' and '.join(bounds)}".strip()


def _code(value: object) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"
