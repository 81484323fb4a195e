"""The server's OpenAPI 3.1 document. A test holds it against the routes, and real answers against it."""

from collections.abc import Iterable
from typing import Any

from serve.http import page as demo
from serve.http import protocol, repository
from serve.http.binary_tensors import HEADER
from serve.http.limits import Limits

Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_BINARY: Json = {"type": "string", "format": "binary"}
_NAMES = {"type": "array", "items": _TEXT}
_ERRORS = {
    400: "The request is wrong; the sentence says what was expected and what came.",
    401: "The bearer token is missing or wrong.",
    403: "A page of another origin sent the request, or the server has no token and is to load or unload a model.",
    404: "There is no such model or version.",
    405: "The path does not take this method.",
    408: "The request took too long to arrive.",
    413: "The body, its JSON, its number of images or the number of classes to name is larger than the limit.",
    415: "The body has a Content-Encoding other than gzip and deflate, or a type that is no image's.",
    421: "The header Host names another machine.",
    431: "The header is larger than the limit.",
    500: "The model failed.",
    503: "The server is busy, or the deadline passed; try again after Retry-After seconds.",
}
_OF_POST = tuple(status for status in _ERRORS if status != 405)


def document(version: str, models: Iterable[str], limits: Limits) -> Json:
    """What a server of these models answers to, as plain JSON data."""
    name = _parameter("name", {"type": "string", "enum": list(models)}, "A model served here.")
    version_ = _parameter("version", {"type": "string", "enum": list(protocol.VERSIONS)}, "Its version.")
    paths: dict[str, Json] = {
        "/v2": {"get": _get("Server metadata", "Server")},
        "/v2/health/live": {"get": _get("Is the process up?", "Live")},
        "/v2/health/ready": {"get": _get("Can it answer?", "Ready")},
        "/metrics": {"get": _operation("Counters for Prometheus", {"text/plain": {"schema": _TEXT}}, 401)},
        "/openapi.json": {"get": _get("This document", {"type": "object"})},
        "/classify": {"post": _classify(limits, list(models))},
        "/models": {"get": _get("The cards of the models", "Models")},
        "/samples": {"get": _get("Samples of the data set", "Samples")},
        "/samples/{index}.png": {
            "parameters": [_parameter("index", {"type": "integer", "minimum": 0}, "Counted from 0.")],
            "get": _operation("One of them", {"image/png": {"schema": _BINARY}}, 401, 404),
        },
        **{
            path: {"get": _operation("The demo page" if path == "/" else "A part of it", {kind: {"schema": _TEXT}})}
            for path, (_, kind) in demo.FILES.items()
        },
    }
    for path, parameters in (("", [name]), ("/versions/{version}", [name, version_])):
        path = "/v2/models/{name}" + path
        paths[path] = {"parameters": parameters, "get": _get("Model metadata", "Model", 404)}
        paths[path + "/ready"] = {"parameters": parameters, "get": _get("Can it answer?", "ModelReady", 404)}
        paths[path + "/infer"] = {"parameters": parameters, "post": _infer(limits)}
    paths |= _repository(name)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pupil",
            "version": version,
            "summary": "Image classifiers behind the Open Inference Protocol v2",
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "responses": {str(status): _error(status, text) for status, text in _ERRORS.items()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],  # a token only where the server was started with one
    }


def _get(summary: str, schema: str | Json, *errors: int) -> Json:
    content = {"application/json": {"schema": _ref(schema) if isinstance(schema, str) else schema}}
    return _operation(summary, content, 401, *errors)


def _repository(name: Json) -> dict[str, Json]:
    """The model repository extension."""
    index = _operation("All models, loaded or not", {"application/json": {"schema": _ref("Index")}}, *_OF_POST)
    index["requestBody"] = _json_body(_object({}, {"ready": {"type": ["boolean", "null"]}}))
    paths: dict[str, Json] = {repository.PATH + "/index": {"post": index}}
    for verb, summary in (("load", "Read the file of a model again"), ("unload", "Let a model go")):
        change = _operation(summary, {"application/json": {"schema": _object({})}}, *_OF_POST)
        dependents = _object({}, {"unload_dependents": {"description": "Accepted, and means nothing here."}})
        change["requestBody"] = _json_body(_object({}, {"parameters": dependents}))
        paths[repository.CONTROL + "{name}/" + verb] = {"parameters": [name], "post": change}
    return paths


def _json_body(schema: Json) -> Json:
    return {"required": False, "content": {"application/json": {"schema": schema}}}


def _infer(limits: Limits) -> Json:
    answers = {
        "application/json": {"schema": _ref("Answer")},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    }
    operation = _operation("Pixels to probabilities and logits", answers, *_OF_POST)
    operation["responses"]["200"]["headers"] = {
        HEADER: {"schema": {"type": "integer"}, "description": "Bytes of JSON before the binary tensors."}
    }
    operation["parameters"] = [
        {
            "name": HEADER,
            "in": "header",
            "required": False,
            "schema": {"type": "integer", "minimum": 0},
            "description": "Bytes of JSON at the start of the body; binary tensors follow. Left out, all is JSON.",
        }
    ]
    operation["requestBody"] = {
        "required": True,
        "description": f"At most {limits.max_body_bytes} bytes, {limits.max_json_bytes} of them JSON.",
        "content": {
            "application/json": {"schema": _ref("Request")},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
    return operation


def _classify(limits: Limits, models: list[str]) -> Json:
    answer = {"application/json": {"schema": _ref("Classified")}}
    operation = _operation("An image file to its best labels", answer, *_OF_POST)
    query: Json = {"in": "query", "required": False}
    operation["parameters"] = [
        query | {"name": "model", "schema": {"enum": models}, "description": "Left out, the one that stands first."},
        query | {"name": "top", "schema": {"type": "integer", "minimum": 1}, "description": "How many labels."},
    ]
    operation["requestBody"] = {
        "required": True,
        "description": f"A JPEG, PNG, WebP or HEIC file of at most {limits.max_body_bytes} bytes.",
        "content": {f"image/{kind}": {"schema": _BINARY} for kind in ("jpeg", "png", "webp", "heic", "heif")},
    }
    return operation


def _operation(summary: str, content: Json, *errors: int) -> Json:
    responses: Json = {"200": {"description": summary, "content": content}}
    responses |= {str(status): {"$ref": f"#/components/responses/{status}"} for status in errors}
    return {"summary": summary, "responses": responses}


def _error(status: int, text: str) -> Json:
    response: Json = {"description": text, "content": {"application/json": {"schema": _ref("Error")}}}
    if status == 503:
        response["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "required": True}}
    return response


def _parameter(name: str, schema: Json, text: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": schema, "description": text}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: Json, optional: Json | None = None, closed: bool = True) -> Json:
    schema = {"type": "object", "properties": required | (optional or {}), "required": list(required)}
    return schema | {"additionalProperties": False} if closed else schema


def _schemas() -> Json:
    shape = {"type": "array", "items": {"type": "integer"}}
    tensor_of = {"name": _TEXT, "datatype": _TEXT, "shape": shape}
    parameters = {"parameters": {"type": "object"}}
    pixels: Json = {
        "name": {"const": "pixels"},
        "datatype": {"const": "UINT8"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 4, "maxItems": 4},
    }
    data = {"data": {"type": "array", "description": "Integers in 0..255, flat or nested as the shape."}}
    binary = {"parameters": _object({"binary_data_size": {"type": "integer", "minimum": 1}}, closed=False)}
    of_output = {"binary_data": {"type": "boolean"}, "classification": {"type": "integer", "minimum": 1}}
    requested = _object(
        {"name": {"enum": list(protocol.OUTPUTS)}}, {"parameters": _object({}, of_output, closed=False)}, closed=False
    )
    sizes = _object({"binary_data_size": {"type": "integer"}})
    numbers = {"type": "array", "items": {"type": "number"}}
    best = {"type": "array", "items": _TEXT, "description": "VALUE:INDEX:LABEL, the best first."}
    output = {"name": {"enum": list(protocol.OUTPUTS)}, "shape": shape}
    outputs = [
        _object(output | {"datatype": {"const": "FP32"}, "data": numbers}),
        _object(output | {"datatype": {"const": "BYTES"}, "data": best}),
        _object(output | {"datatype": {"enum": ["FP32", "BYTES"]}} | {"parameters": sizes}),
    ]
    return {
        "Error": _object({"error": _TEXT}),
        "Server": _object({"name": _TEXT, "version": _TEXT, "extensions": _NAMES}),
        "Classified": _object(
            {
                "model": _TEXT,
                "top": {"type": "array", "items": _object({"label": _TEXT, "probability": {"type": "number"}})},
                "milliseconds": _object({"decode": {"type": "number"}, "infer": {"type": "number"}}),
            }
        ),
        "Models": _object({"models": {"type": "array", "items": {"type": "object"}}}),
        "Samples": _object({"samples": {"type": "array", "items": _object({"url": _TEXT, "label": _TEXT})}}),
        "Live": _object({"live": {"type": "boolean"}}),
        "Ready": _object({"ready": {"type": "boolean"}}),
        "ModelReady": _object({"name": _TEXT, "ready": {"type": "boolean"}}),
        "Model": _object(
            {
                "name": _TEXT,
                "versions": _NAMES,
                "platform": _TEXT,
                "inputs": {"type": "array", "items": _object(tensor_of)},
                "outputs": {"type": "array", "items": _object(tensor_of)},
                "parameters": _object({"labels": _NAMES, "provider": _TEXT}),
            }
        ),
        "Index": {
            "type": "array",
            "items": _object({"name": _TEXT, "version": _TEXT, "state": _TEXT, "reason": _TEXT}),
        },
        "Request": _object(
            {
                "inputs": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 1,
                    "items": {
                        "anyOf": [
                            _object(pixels | data, parameters, closed=False),
                            _object(pixels | binary, closed=False),
                        ]
                    },
                }
            },
            {"id": _TEXT, "outputs": {"type": "array", "items": requested}} | parameters,
            closed=False,
        ),
        "Answer": _object(
            {
                "model_name": _TEXT,
                "model_version": _TEXT,
                "outputs": {
                    "type": "array",
                    "items": {"oneOf": outputs},
                },
            },
            {"id": _TEXT},
        ),
    }
