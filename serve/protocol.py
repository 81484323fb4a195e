"""The Open Inference Protocol v2 as JSON: a request's bytes to pixels, a model's answer to bytes.

https://github.com/kserve/open-inference-protocol. Functions of values; the HTTP around them is in app.py.
"""

import json
import math
import reprlib
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from serve.errors import InputError
from serve.model import Floats, OnnxClassifier, Pixels

OUTPUTS = ("probabilities", "logits")


@dataclass(frozen=True)
class Request:
    """One inference request."""

    pixels: Pixels  # (n, H, W, 3), n > 0; whether H and W are the model's is for the model to say
    outputs: tuple[str, ...]  # names to answer with, in the order asked for
    id: str | None  # to be given back with the answer


def read(body: bytes) -> Request:
    """Parse a request; raises InputError with one sentence on the first thing that is wrong."""
    try:
        content = json.loads(body)
    except RecursionError:
        raise InputError("The body is JSON nested too deeply.") from None
    except ValueError as error:  # also bytes that are no UTF-8, and integers of thousands of digits
        raise InputError(f"The body is not JSON: {error}.") from error
    request = _object(content, "The body")
    id_ = request.get("id")
    if id_ is not None and not isinstance(id_, str):
        raise InputError(f"'id' must be a string, not {_show(id_)}.")
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise InputError(f"'inputs' must be a list of exactly one tensor, 'pixels', not {_show(inputs)}.")
    return Request(_pixels(_object(inputs[0], "The input")), _requested(request.get("outputs")), id_)


def answer(model: OnnxClassifier, request: Request, probabilities: Floats, logits: Floats) -> bytes:
    """Write the response: what was asked for of a model's (n, K) probabilities and logits."""
    tensors = dict(zip(OUTPUTS, (probabilities, logits), strict=True))
    response: dict[str, Any] = {"model_name": model.card.name}
    if request.id is not None:
        response["id"] = request.id
    response["outputs"] = [_tensor(name, tensors[name]) for name in request.outputs]
    return write(response)


def metadata(model: OnnxClassifier) -> dict[str, Any]:
    """The protocol's description of a model; -1 is the free batch axis."""
    size, num_classes = model.card.image_px, len(model.card.labels)
    return {
        "name": model.card.name,
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [-1, size, size, 3]}],
        "outputs": [{"name": name, "datatype": "FP32", "shape": [-1, num_classes]} for name in OUTPUTS],
    }


def write(content: object) -> bytes:
    """JSON in ASCII: half a surrogate pair in a request's id must not break the answer that echoes it."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def _pixels(tensor: dict[str, Any]) -> Pixels:
    if tensor.get("name") != "pixels":
        raise InputError(f"The input must be named 'pixels', not {_show(tensor.get('name'))}.")
    if tensor.get("datatype") != "UINT8":
        raise InputError(f"'pixels' must have datatype 'UINT8', not {_show(tensor.get('datatype'))}.")
    shape, data = tensor.get("shape"), tensor.get("data")
    # Dimensions are 64 bits by the protocol; without a bound their product could be too long to print.
    if not isinstance(shape, list) or [type(size) is int and 0 < size < 2**64 for size in shape] != [True] * 4:
        raise InputError(f"'shape' must be four positive integers [n, H, W, 3], not {_show(shape)}.")
    if not isinstance(data, list):
        raise InputError(f"'data' must be a list of integers, flat or nested as the shape, not {_show(data)}.")
    values = _flat(data, shape)
    if len(values) != math.prod(shape):
        raise InputError(f"'shape' {_show(shape)} asks for {math.prod(shape)} values, 'data' holds {len(values)}.")
    if not set(map(type, values)) <= {int}:  # not isinstance: true is no pixel
        wrong = next(value for value in values if type(value) is not int)
        raise InputError(f"'data' must hold integers only, not {_show(wrong)}.")
    try:
        raw = bytes(values)
    except (ValueError, OverflowError):
        wrong = next(value for value in values if not 0 <= value <= 255)
        raise InputError(f"'data' must hold values in 0..255, not {_show(wrong)}.") from None
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape)


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


def _requested(outputs: Any) -> tuple[str, ...]:
    if outputs is None or outputs == []:
        return OUTPUTS
    if not isinstance(outputs, list):
        raise InputError(f"'outputs' must be a list of objects with a name, not {_show(outputs)}.")
    names: list[str] = []
    for output in outputs:
        name = _object(output, "A requested output").get("name")
        if name not in OUTPUTS:
            raise InputError(f"The model has no output {_show(name)}; it has {' and '.join(OUTPUTS)}.")
        if name in names:
            raise InputError(f"Output {name!r} is requested more than once.")
        names.append(name)
    return tuple(names)


def _object(value: Any, what: str) -> dict[str, Any]:
    """`value` as an object whose `parameters`, if any, are an object too."""
    if not isinstance(value, dict):
        raise InputError(f"{what} must be a JSON object, not {_show(value)}.")
    if not isinstance(value.get("parameters", {}), dict):
        raise InputError(f"'parameters' must be a JSON object, not {_show(value['parameters'])}.")
    return value


def _tensor(name: str, values: Floats) -> dict[str, Any]:
    return {"name": name, "datatype": "FP32", "shape": list(values.shape), "data": values.ravel().tolist()}


def _show(value: Any) -> str:
    """A value as an error message quotes it: cut short, whatever its size."""
    text = "nothing" if value is None else reprlib.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
