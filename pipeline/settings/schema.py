"""The JSON schema of params.yaml, for editors to complete and check, and for the page that `make docs` writes."""

from typing import Any

from pydantic import BaseModel

from pipeline.settings.params import Params
from pipeline.system import registry


def json_schema() -> dict[str, Any]:
    """A JSON schema of params.yaml, with the settings of every method and source, for editors to complete and check."""
    schema = Params.model_json_schema()
    definitions = schema["$defs"]
    for section, key, package in (
        ("Distill", "methods", "pipeline.distillation"),
        ("Data", "sources", "pipeline.sources"),
    ):
        properties: dict[str, Any] = {}
        for name in registry.names(package):
            model = registry.find(package, name, key).Config
            config = model.model_json_schema(ref_template="#/$defs/{model}")
            definitions.update(config.pop("$defs", {}))
            for setting, text in _inherited(model).items():
                config["properties"][setting].setdefault("description", text)
            properties[name] = {**config, "title": name}
        target = definitions[section]["properties"][key]
        target["properties"] = properties
        target["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _inherited(model: type[BaseModel]) -> dict[str, str]:
    """What the classes above say of settings: one that sets another default says nothing anew."""
    found: dict[str, str] = {}
    for kind in reversed([base for base in model.__mro__ if issubclass(base, BaseModel)]):
        found |= {name: field.description for name, field in kind.model_fields.items() if field.description}
    return {name: text for name, text in found.items() if name in model.model_fields}
