"""JSON of a stranger: bounded in size and depth before a value is made of it."""

import json
import re
from itertools import accumulate
from typing import Any

from serve.errors import InputError, TooLarge
from serve.http.limits import Limits

_OTHER = bytes(set(range(256)) - set(b"[]{}"))
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_STEP = {ord(bracket): step for bracket, step in (("[", 1), ("{", 1), ("]", -1), ("}", -1))}


def parse(content: bytes, limits: Limits) -> Any:
    """The value of a JSON text. Raises TooLarge or InputError with one sentence."""
    if len(content) > limits.max_json_bytes:
        raise TooLarge(
            f"{len(content)} bytes of JSON are more than the limit of {limits.max_json_bytes}; "
            "send the tensor as binary data, or fewer images."
        )
    # The number of brackets bounds the depth, so a flat tensor is not walked.
    if content.count(b"[") + content.count(b"{") > limits.max_json_depth and _depth(content) > limits.max_json_depth:
        raise InputError(f"The body is JSON nested deeper than the limit of {limits.max_json_depth}.")
    try:
        return json.loads(content)
    except ValueError as error:  # also bytes that are no UTF-8, and integers of thousands of digits
        raise InputError(f"The body is not JSON: {error}.") from error


def _depth(content: bytes) -> int:
    brackets = _STRING.sub(b"", content).translate(None, _OTHER)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0)
