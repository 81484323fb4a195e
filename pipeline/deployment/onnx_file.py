"""An ONNX file with its card at the end, and in the card the checksum of everything before it.

    file = graph | card          both protobuf: fields that stand one behind the other are read as one message

The card is the one entry of `metadata_props`, appended as its own bytes. So whoever has no protobuf can find it, and
can tell whether the network in front of it is the one that was exported.
"""

import hashlib
import json
import math
from collections.abc import Container
from pathlib import Path
from typing import Any

import onnx

from pipeline.system.errors import PupilError

CARD_KEY = "pupil_card"


def write(model: onnx.ModelProto, card: dict[str, Any], path: Path) -> None:
    """Let onnx check `model` and write it with `card` and `graph_sha256`. The same model and card, the same bytes.

    What the file is to be without stays out: the exporter's notes, which name this machine's paths and count on from
    run to run, shapes between nodes, and metadata of its own.
    """
    clean = onnx.ModelProto()
    clean.CopyFrom(model)
    _strip(clean)
    graph = clean.SerializeToString(deterministic=True)
    text = json.dumps(card | {"graph_sha256": hashlib.sha256(graph).hexdigest()}, ensure_ascii=False, sort_keys=True)
    entry = onnx.StringStringEntryProto(key=CARD_KEY, value=text)
    content = graph + onnx.ModelProto(metadata_props=[entry]).SerializeToString(deterministic=True)
    onnx.checker.check_model(onnx.load_model_from_string(content), full_check=True)
    path.write_bytes(content)


def read(path: Path) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The model and its card. Raises PupilError where the file is missing or not what `write` wrote."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PupilError(f"{path} could not be read ({error.strerror}). Run `dvc repro export`.") from error
    try:
        model = onnx.load_model_from_string(content)
        (text,) = (entry.value for entry in model.metadata_props if entry.key == CARD_KEY)
        del model.metadata_props[:]
        card: dict[str, Any] = json.loads(text)
        is_whole = card["graph_sha256"] == hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    except Exception as error:  # protobuf's, json's and more: all mean that another wrote it, or less than all is here
        raise PupilError(
            f"{path} is not a model that Pupil exported ({error}). Run `dvc repro --force export`."
        ) from error
    if not is_whole:
        raise PupilError(f"{path} was changed after its export. Run `dvc repro --force export`.")
    return model, card


def num_parameters(model: onnx.ModelProto, buffers: Container[str]) -> int:
    """How many weights the file stores; `buffers` names what is none, such as statistics of BN."""
    return sum(
        math.prod(tensor.dims)
        for tensor in model.graph.initializer
        if tensor.dims and tensor.data_type == onnx.TensorProto.FLOAT and tensor.name not in buffers
    )


def _strip(model: onnx.ModelProto) -> None:
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    del graph.metadata_props[:]
    del graph.value_info[:]
    del model.metadata_props[:]
