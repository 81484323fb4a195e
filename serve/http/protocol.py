"""The Open Inference Protocol v2: a request's bytes to pixels, a model's answer to bytes.

https://github.com/kserve/open-inference-protocol. Functions of values; the HTTP around them is in app.py, where binary
tensors lie in a body in binary_tensors.py.
"""

import math
import reprlib
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import orjson

from serve.errors import InputError, TooLarge
from serve.http import classification
from serve.http.limits import Limits
from serve.model.classifier import Floats, OnnxClassifier, Pixels

OUTPUTS = ("probabilities", "logits")
VERSIONS = ("1",)  # a file is one version
EXTENSIONS = ("binary_tensor_data", "classification")
_ELSEWHERE = "shared_memory_region"  # parameter of an extension that changes where data is


@dataclass(frozen=True)
class Output:
    """An output that was asked for."""

    name: str
    is_binary: bool
    num_best: int | None = None  # classes to name, the best first, instead of all values


@dataclass(frozen=True)
class Request:
    """One inference request."""

    pixels: Pixels  # (n, H, W, 3), n > 0; whether H and W are the model's is for the model to say
    outputs: tuple[Output, ...]  # to answer with, in the order asked for
    id: str | None  # to be given back with the answer
    timeout_ms: float | None  # the client waits no longer


def read(content: bytes, tail: memoryview | None, limits: Limits) -> Request:
    """Parse a request: its JSON, and the binary data behind it, if any.

    Raises InputError with one sentence on the first thing that is wrong, TooLarge for more JSON than allowed.
    """
    request = read_object(content, limits)
    id_ = request.get("id")
    if id_ is not None and not isinstance(id_, str):
        raise InputError(f"'id' must be a string, not {_show(id_)}.")
    parameters = _parameters(request)
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise InputError(f"'inputs' must be a list of exactly one tensor, 'pixels', not {_show(inputs)}.")
    pixels = _pixels(_object(inputs[0], "The input"), tail)
    is_binary = _flag(parameters, "binary_data_output", False)
    return Request(pixels, _requested(request.get("outputs"), is_binary), id_, _timeout_ms(parameters))


def check_texts(request: Request, num_classes: int) -> None:
    """Raise TooLarge for more named classes than one answer may have, of a model with `num_classes`."""
    each = (min(asked.num_best, num_classes) for asked in request.outputs if asked.num_best is not None)
    num_texts = len(request.pixels) * sum(each)
    if num_texts > classification.MAX_TEXTS:
        raise TooLarge(
            f"{num_texts:,} classes would be named, more than the {classification.MAX_TEXTS:,} of one answer; ask for "
            "fewer ('classification'), or for the tensor as binary data."
        )


def answer(model: OnnxClassifier, request: Request, probabilities: Floats, logits: Floats) -> tuple[bytes, list[bytes]]:
    """What was asked for of a model's (n, K) probabilities and logits: the JSON, and the binary tensors."""
    tensors = dict(zip(OUTPUTS, (probabilities, logits), strict=True))
    response: dict[str, Any] = {"model_name": model.card.name, "model_version": VERSIONS[-1]}
    if request.id is not None:
        response["id"] = request.id
    outputs, raw = [], []
    for asked in request.outputs:
        values = tensors[asked.name]
        if (asked.num_best is not None or not asked.is_binary) and not np.isfinite(values).all():
            raise ValueError(f"{model.card.name} computed {asked.name} that are no numbers, which no text can hold.")
        best = None if asked.num_best is None else classification.texts(values, model.card.labels, asked.num_best)
        output: dict[str, Any] = {"name": asked.name}
        if best is None:
            output |= {"datatype": "FP32", "shape": list(values.shape)}
        else:
            output |= {"datatype": "BYTES", "shape": [len(values), len(best) // len(values)]}
        if asked.is_binary:
            raw.append(values.astype("<f4", copy=False).tobytes() if best is None else classification.packed(best))
            output["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            output["data"] = values.ravel().tolist() if best is None else best
        outputs.append(output)
    response["outputs"] = outputs
    return write(response), raw


def metadata(model: OnnxClassifier) -> dict[str, Any]:
    """The protocol's description of a model; -1 is the free batch axis."""
    size, num_classes = model.card.image_px, len(model.card.labels)
    return {
        "name": model.card.name,
        "versions": list(VERSIONS),
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [-1, size, size, 3]}],
        "outputs": [{"name": name, "datatype": "FP32", "shape": [-1, num_classes]} for name in OUTPUTS],
        "parameters": {"labels": list(model.card.labels), "provider": model.provider},
    }


def read_object(content: bytes, limits: Limits) -> dict[str, Any]:
    """The JSON object of a body. Raises InputError, TooLarge."""
    return _object(_parsed(content, limits), "The body")


def write(content: object) -> bytes:
    """JSON in UTF-8."""
    return orjson.dumps(content)


def _parsed(content: bytes, limits: Limits) -> Any:
    """The value of a JSON text in UTF-8. orjson takes linear time, and no more than 1,024 levels."""
    if len(content) > limits.max_json_bytes:
        raise TooLarge(
            f"{len(content)} bytes of JSON are more than the limit of {limits.max_json_bytes}; "
            "send the tensor as binary data, or fewer images."
        )
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise InputError(f"The body is not JSON in UTF-8: {error}.") from error


def _pixels(tensor: dict[str, Any], tail: memoryview | None) -> Pixels:
    if tensor.get("name") != "pixels":
        raise InputError(f"The input must be named 'pixels', not {_show(tensor.get('name'))}.")
    if tensor.get("datatype") != "UINT8":
        raise InputError(f"'pixels' must have datatype 'UINT8', not {_show(tensor.get('datatype'))}.")
    shape = tensor.get("shape")
    if not isinstance(shape, list) or [type(size) is int and size > 0 for size in shape] != [True] * 4:
        raise InputError(f"'shape' must be four positive integers [n, H, W, 3], not {_show(shape)}.")
    size = _parameters(tensor).get("binary_data_size")
    if size is not None:
        raw: memoryview | bytes = _binary(tensor, size, shape, tail)
    elif tail:
        raise InputError(f"{len(tail)} bytes follow the JSON, and no input has a 'binary_data_size' to claim them.")
    else:
        raw = _listed(tensor.get("data"), shape)
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape)


def _binary(tensor: dict[str, Any], size: Any, shape: list[int], tail: memoryview | None) -> memoryview:
    if tail is None:
        raise InputError("'binary_data_size' is given without the header Inference-Header-Content-Length.")
    if tensor.get("data") is not None:
        raise InputError("'pixels' has both 'data' and 'binary_data_size'; send one of them.")
    if type(size) is not int or size != math.prod(shape):
        raise InputError(
            f"'shape' {_show(shape)} asks for {math.prod(shape)} bytes, 'binary_data_size' is {_show(size)}."
        )
    if len(tail) != size:
        raise InputError(f"'binary_data_size' is {size}, and {len(tail)} bytes follow the JSON.")
    return tail


def _listed(data: Any, shape: list[int]) -> bytes:
    if not isinstance(data, list):
        raise InputError(f"'data' must be a list of integers, flat or nested as the shape, not {_show(data)}.")
    values = _flat(data, shape)
    if len(values) != math.prod(shape):
        raise InputError(f"'shape' {_show(shape)} asks for {math.prod(shape)} values, 'data' holds {len(values)}.")
    if not set(map(type, values)) <= {int}:  # not isinstance: true is no pixel
        wrong = next(value for value in values if type(value) is not int)
        raise InputError(f"'data' must hold integers only, not {_show(wrong)}.")
    try:
        return bytes(values)
    except (ValueError, OverflowError):
        wrong = next(value for value in values if not 0 <= value <= 255)
        raise InputError(f"'data' must hold values in 0..255, not {_show(wrong)}.") from None


def _flat(data: list[Any], shape: list[int]) -> list[Any]:
    """The values of flat or nested data; raises InputError where the nesting is not that of the shape."""
    if not data or not isinstance(data[0], list):
        return data
    level: list[Any] = [data]
    for length in shape:
        for item in level:
            if not isinstance(item, list) or len(item) != length:
                raise InputError(f"'data' is nested otherwise than 'shape' {_show(shape)} says; send it flat.")
        level = list(chain.from_iterable(level))
    return level


def _requested(outputs: Any, is_binary: bool) -> tuple[Output, ...]:
    if outputs is None or outputs == []:
        return tuple(Output(name, is_binary) for name in OUTPUTS)
    if not isinstance(outputs, list):
        raise InputError(f"'outputs' must be a list of objects with a name, not {_show(outputs)}.")
    chosen: dict[str, Output] = {}
    for output in outputs:
        name = _object(output, "A requested output").get("name")
        if name not in OUTPUTS:
            raise InputError(f"The model has no output {_show(name)}; it has {' and '.join(OUTPUTS)}.")
        if name in chosen:
            raise InputError(f"Output {name!r} is requested more than once.")
        parameters = _parameters(output)
        chosen[name] = Output(name, _flag(parameters, "binary_data", is_binary), _num_best(parameters))
    return tuple(chosen.values())


def _num_best(parameters: dict[str, Any]) -> int | None:
    """What tritonclient sends as `classification` for its class_count."""
    value = parameters.get("classification")
    if value is not None and (type(value) is not int or value < 1):
        raise InputError(f"'classification' must be a number of classes from 1 on, not {_show(value)}.")
    return value


def _flag(parameters: dict[str, Any], key: str, default: bool) -> bool:
    value = parameters.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InputError(f"{key!r} must be true or false, not {_show(value)}.")
    return value


def _timeout_ms(parameters: dict[str, Any]) -> float | None:
    """What tritonclient sends as `timeout`, in microseconds; clients send 0 for none."""
    value = parameters.get("timeout")
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise InputError(f"'timeout' must be an integer of microseconds, 0 for none, not {_show(value)}.")
    return value / 1000 if value > 0 else None


def _object(value: Any, what: str) -> dict[str, Any]:
    """`value` as an object whose `parameters`, if any, are an object of nothing that this server cannot do."""
    if not isinstance(value, dict):
        raise InputError(f"{what} must be a JSON object, not {_show(value)}.")
    parameters = _parameters(value)
    if not isinstance(parameters, dict):
        raise InputError(f"'parameters' must be a JSON object, not {_show(parameters)}.")
    if parameters.get(_ELSEWHERE) is not None:
        raise InputError(f"Parameter {_ELSEWHERE!r} belongs to an extension that is not offered here.")
    return value


def _parameters(of: dict[str, Any]) -> dict[str, Any]:
    """What stands there as parameters, once `_object` has seen that it is an object; null is none, as everywhere."""
    value = of.get("parameters")
    return {} if value is None else value


def _show(value: Any) -> str:
    """A value as an error message quotes it: cut short, whatever its size."""
    text = "nothing" if value is None else reprlib.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
