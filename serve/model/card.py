"""The card inside an exported ONNX file: what the model is, what it takes and where it came from.

It is the JSON value of one metadata key, `pupil_card`, and the last thing in the file, behind the network whose
checksum it holds. Everything a server shows or checks is read from there, so a label or an image size is never typed a
second time. Keys this version does not know are ignored: a later exporter may add some without breaking an earlier
server. A change that would break one raises `FORMAT`.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from serve.errors import ModelError

KEY = "pupil_card"
FORMAT = 1
MAX_PX = 4096
"""Of a side: an uploaded image is scaled to resize_px, which takes 48 MiB at this size."""


@dataclass(frozen=True)
class Card:
    """Everything an exported model says about itself."""

    name: str  # stands in URLs: letters, digits, '.', '_' and '-'
    precision: str  # what the network computes in: float32, int8, float16, ...
    weight_bits: int | None  # 7 or 8, which hold the largest whole number; None without such, or where it is not said
    labels: tuple[str, ...]  # K class names, in the order of the outputs
    image_px: int  # images are image_px high and image_px wide
    resize_px: int  # of an image file, the short side becomes this before the middle is cut out; at least cut_px
    cut_px: int  # height and width of that middle, which is then made smaller to image_px; at least image_px
    mean: tuple[float, ...]  # 3 channel means of the training images in [0, 1]; already applied inside the graph
    std: tuple[float, ...]  # 3 channel deviations, likewise
    arch: str
    method: str | None  # the distillation method; None for a network trained without a teacher
    seed: int | None
    num_parameters: int
    macs: int  # multiply-accumulates of one image
    metrics: Mapping[str, float]  # on the test split; accuracies in percent
    params_sha256: str  # of the parameters that made it
    data_sha256: str  # of the data set it was trained on
    data_licence: str | None
    graph_sha256: str  # of the file up to where its card begins

    @property
    def full_name(self) -> str:
        """The name, and behind it the precision where it is not float32: two forms of one model have one name."""
        return self.name if self.precision == "float32" else f"{self.name}_{self.precision}"

    @classmethod
    def of_file(cls, content: bytes) -> "Card":
        """The card at the end of a file's bytes, once the bytes before it are those that it was written for.

        Raises ModelError where there is none, where it is impossible, or where the network is another one.
        """
        # A card cannot contain the head itself: JSON has no control characters.
        text = content.rpartition(_HEAD)[2].lstrip(_CONTINUED)[1:]
        entry = _entry(text)
        if not content.endswith(entry):
            raise ModelError(f"it does not end in a {KEY!r} entry: it was cut short, changed, or not exported by Pupil")
        try:
            card = cls.from_json(text.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ModelError(f"its card is not UTF-8 ({error})") from error
        came = hashlib.sha256(memoryview(content)[: -len(entry)]).hexdigest()
        if came != card.graph_sha256:
            raise ModelError(
                f"its network is not the one that its card was written for: expected sha256 {card.graph_sha256}, but "
                f"got {came}"
            )
        return card

    @classmethod
    def from_json(cls, text: str) -> "Card":
        """Read a card; raises ModelError naming the first key that is missing or impossible, and what came."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"its card is not JSON ({error})") from error
        if not isinstance(values, dict):
            raise ModelError(f"its card is a JSON {type(values).__name__}, not an object")
        if "image_px" in values:
            # Exporters wrote no resize_px while it was always image_px.
            values.setdefault("resize_px", values["image_px"])
            # They write cut_px only where it is not image_px.
            values.setdefault("cut_px", values["image_px"])
        # Earlier exporters did not say it.
        values.setdefault("weight_bits", None)
        if values.get("format") != FORMAT:
            raise ModelError(f"its card has format {values.get('format')!r}, but this server reads format {FORMAT}")
        for key, (is_valid, expected) in _FIELDS.items():
            if key not in values:
                raise ModelError(f"its card has no {key!r} (expected {expected})")
            if not is_valid(values[key]):
                raise ModelError(f"its card has {key} = {values[key]!r:.80}, expected {expected}")
        for larger, smaller in (("cut_px", "image_px"), ("resize_px", "cut_px")):
            if values[larger] < values[smaller]:
                raise ModelError(f"its card has {larger} = {values[larger]}, below {smaller} = {values[smaller]}")
        known = {key: values[key] for key in _FIELDS}
        known |= {key: tuple(values[key]) for key in ("labels", "mean", "std")}
        return cls(**known)


# How protobuf begins an entry of metadata with this key: field 1 is the key, and the length of field 2 follows.
_HEAD = b"\x0a" + bytes([len(KEY)]) + KEY.encode() + b"\x12"
_CONTINUED = bytes(range(128, 256))  # every byte of a length but its last


def _entry(text: bytes) -> bytes:
    """The bytes of the whole entry, as field 14 of an ONNX model."""
    fields = _HEAD + _varint(len(text)) + text
    return b"\x72" + _varint(len(fields)) + fields


def _varint(value: int) -> bytes:
    """7 bits a byte, the lowest first; all but the last have the highest bit set."""
    digits = b""
    while value > 127:
        digits += bytes([value & 127 | 128])
        value >>= 7
    return digits + bytes([value])


def _is_text(value: Any) -> bool:
    # JSON can hold half a surrogate pair, which is no text: no answer could carry it.
    return isinstance(value, str) and value != "" and value == value.encode("utf-8", "ignore").decode("utf-8")


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value) is not None


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0  # not isinstance: True is an int


def _is_side(value: Any) -> bool:
    return _is_count(value) and value <= MAX_PX


def _is_number(value: Any) -> bool:
    # JSON integers have no bound; beyond 2^53 they would not survive as a float.
    return (type(value) is int and abs(value) < 2**53) or (isinstance(value, float) and math.isfinite(value))


def _is_labels(value: Any) -> bool:
    # Two classes may share a word (ImageNet has two cranes), so labels need not differ.
    return isinstance(value, list) and len(value) > 0 and all(_is_text(label) for label in value)


def _is_triple(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_is_number(number) for number in value)


def _is_deviations(value: Any) -> bool:
    return _is_triple(value) and min(value) > 0


def _is_metrics(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_number(number) for number in value.values())


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (_is_name, "a name of letters, digits, '.', '_' and '-'"),
    "precision": (_is_text, "a text"),
    "weight_bits": (lambda value: value is None or _is_count(value), "a positive integer or null"),
    "labels": (_is_labels, "a list of one or more class names"),
    "image_px": (_is_side, f"an integer in 1..{MAX_PX}"),
    "resize_px": (_is_side, f"an integer in 1..{MAX_PX}"),
    "cut_px": (_is_side, f"an integer in 1..{MAX_PX}"),
    "mean": (_is_triple, "3 finite numbers"),
    "std": (_is_deviations, "3 positive numbers"),
    "arch": (_is_text, "a text"),
    "method": (lambda value: value is None or _is_text(value), "a text or null"),
    "seed": (lambda value: value is None or type(value) is int, "an integer or null"),
    "num_parameters": (_is_count, "a positive integer"),
    "macs": (_is_count, "a positive integer"),
    "metrics": (_is_metrics, "an object of finite numbers"),
    "params_sha256": (_is_text, "a text"),
    "data_sha256": (_is_text, "a text"),
    "data_licence": (lambda value: value is None or _is_text(value), "a text or null"),
    "graph_sha256": (_is_text, "a text"),
}
