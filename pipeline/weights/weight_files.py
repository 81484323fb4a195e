"""What weights files from elsewhere hold, read without running code of their authors.

    safetensors   ours, timm's, Hugging Face's, ...
    torch.save    .pth, .pth.tar, .pt, .bin, .ckpt, in both of torch's formats, by torch.load(weights_only=True) alone
    a folder      one of these, whole or in shards, with config.json and preprocessor_config.json, as the Hub has it

The bytes decide what a file is, not its name. Tensors stay in the file, mapped into memory, where the format allows.
"""

import argparse
import hashlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.models import checkpoint
from pipeline.settings.data import Normalization
from pipeline.system import files
from pipeline.system.errors import CheckpointError

CONFIG = "pupil_config"
"""Key of a safetensors file's metadata that holds what a folder's config.json would."""
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_ENDINGS = (".safetensors", ".pth", ".tar", ".pt", ".bin", ".ckpt")
_SETTINGS = ("config.json", "preprocessor_config.json")
_NO_WEIGHTS = {b"version https://git-lfs": "a Git LFS pointer", b"<!DOCTYPE": "a web page", b"<html": "a web page"}
_AGAIN = "Copy or download it again"
_SAVE_WEIGHTS_ALONE = (
    "In the environment that made it, and if you trust its author, save the weights alone: "
    "torch.save(model.state_dict(), 'weights.pth')"
)


@dataclass(frozen=True)
class Stated:
    """What a file or its folder says of the weights; None where it says nothing."""

    arch: str | None = None
    """As teacher.arch names networks."""
    labels: tuple[str, ...] | None = None
    normalization: Normalization | None = None
    source: str = ""
    """Where the normalisation stands."""


@dataclass(frozen=True)
class WeightsFile:
    """The tensors of a file, and what is said of them."""

    holders: dict[str, dict[str, Tensor]]
    """The dictionaries that hold tensors, by their place in the file: "" or, such as in {"state_dict": {...}},
    "state_dict."."""
    stated: Stated
    header: checkpoint.Header | None
    """Of a file that a run of Pupil wrote."""


def read(path: Path) -> WeightsFile:
    """All tensors of the file or folder `path`, and what it says of them.

    Raises CheckpointError for what is missing, torn or no file of weights, and for what needs code to be read.
    """
    config, preprocessor = _settings(path)
    holders: dict[str, dict[str, Tensor]] = {}
    header = None
    for file in _weights(path):
        found, metadata, header = _read(file)
        if CONFIG in metadata:
            config = checkpoint.json_object(metadata[CONFIG], f"{CONFIG} in the metadata of {file}")
        for place, tensors in found.items():
            holders.setdefault(place, {}).update(tensors)
    if not holders:
        raise CheckpointError(f"{path} holds no weights: no dictionary of tensors is in it. {_SAVE_WEIGHTS_ALONE}.")
    return WeightsFile(holders, _stated(config, preprocessor, path), header)


def sha256(path: Path) -> str:
    """Checksum of a file, or of all files of a folder that `read` looks at."""
    if not path.is_dir():
        return files.sha256(_weights(path)[0])
    digest = hashlib.sha256()
    for file in (*_weights(path), *(path / name for name in _SETTINGS if (path / name).is_file())):
        digest.update(f"{file.name} {files.sha256(file)}\n".encode())
    return digest.hexdigest()


def _weights(path: Path) -> list[Path]:
    """The file of weights, or its shards."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise CheckpointError(
            f"there is no such file or folder as '{path}'. Set teacher.weights to a .safetensors file, to a file of "
            "torch.save or to a folder that holds one beside its config.json; or to null, to train the teacher."
        )
    for name in _WHOLE:
        index = path / f"{name}.index.json"
        if (path / name).is_file():
            return [path / name]
        if index.is_file():
            named = checkpoint.json_object(index.read_bytes(), str(index)).get("weight_map")
            shards = sorted(set(map(str, named.values()))) if isinstance(named, dict) else []
            absent = [shard for shard in shards if Path(shard).name != shard or not (path / shard).is_file()]
            if absent or not shards:
                raise CheckpointError(f"{index} names {', '.join(absent) or 'no files'}: not in {path}. {_AGAIN}.")
            return [path / shard for shard in shards]
    found = sorted(file for file in path.iterdir() if file.suffix in _ENDINGS and file.is_file())
    if len(found) != 1:
        raise CheckpointError(
            f"the folder {path} holds {', '.join(file.name for file in found) or 'no file of weights'}, and none is "
            f"named {' or '.join(_WHOLE)}. Name the file instead of the folder."
        )
    return found


def _settings(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    config, preprocessor = (
        checkpoint.json_object(file.read_bytes(), str(file)) if file.is_file() else {}
        for file in (path / name for name in _SETTINGS)
    )
    return config, preprocessor


def _stated(config: dict[str, Any], preprocessor: dict[str, Any], path: Path) -> Stated:
    """From the layouts of timm, of transformers, and of what stages.import_weights writes."""
    try:
        arch = config.get("pupil_arch") or (f"timm/{config['architecture']}" if "architecture" in config else None)
        arch = arch and str(arch)
        named = config.get("label_names") or config.get("id2label")
        in_order = [named[key] for key in sorted(named, key=int)] if isinstance(named, Mapping) else named
        labels = tuple(map(str, in_order)) if in_order else None
        for where, mean, std, source in (
            (preprocessor, "image_mean", "image_std", "preprocessor_config.json"),
            (dict(config.get("pretrained_cfg") or {}), "mean", "std", "config.json"),
            (config, "mean", "std", "config.json"),
        ):
            if mean in where and std in where:
                return Stated(arch, labels, Normalization(mean=where[mean], std=where[std]), source)
    except (TypeError, ValueError) as error:
        reason = "; ".join(str(error).splitlines()[:3])
        raise CheckpointError(
            f"{' or '.join(_SETTINGS)} of {path} does not name classes, mean and std as timm or transformers do "
            f"({reason}). Correct it, or name the file of weights instead of the folder."
        ) from error
    return Stated(arch, labels)


def _read(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, str], checkpoint.Header | None]:
    with path.open("rb") as file:
        start = file.read(32)
    for sign, what in _NO_WEIGHTS.items():
        if start.startswith(sign):
            raise CheckpointError(f"{path} is {what}, not the weights. Download the file itself.")
    # Eight bytes of length and a brace begin a safetensors file, and such a length may look like a pickle's start.
    if start.startswith((b"PK\x03\x04", b"\x80")) and start[8:9] != b"{":
        return _holders(_unpickled(path, start.startswith(b"PK"))), {}, None
    tensors, metadata = checkpoint.read_file(path)
    return ({"": tensors} if tensors else {}), metadata, checkpoint.header_of(metadata, path)


def _unpickled(path: Path, is_zip: bool) -> object:
    """What torch.save wrote, as plain data and tensors."""
    if is_zip and not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path} is half a file: its end, which says where its tensors are, is missing. {_AGAIN}."
        )
    # Trainers, timm's among them, keep their command line beside the weights: a Namespace holds plain data.
    with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
        # torch would advise to run the file's code.
        warnings.simplefilter("ignore")
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        except Exception as error:  # whatever the bytes of a file can bring about
            reason = str(error) or type(error).__name__
            if needs := re.search(r"GLOBAL ([\w.]+)", reason):
                why, cure = f"needs code to be read ({needs[1]}), which is not run", _SAVE_WEIGHTS_ALONE
            elif "TorchScript" in reason:
                why, cure = "is a TorchScript program, which is not run", _SAVE_WEIGHTS_ALONE
            elif isinstance(error, pickle.UnpicklingError) or "magic number" in reason:
                why, cure = "was not written by torch.save, or is damaged; no other pickle is read", _SAVE_WEIGHTS_ALONE
            else:
                why, cure = f"cannot be read as a file of torch.save ({reason.splitlines()[0][:200]})", _AGAIN
            raise CheckpointError(f"{path} {why}. {cure}.") from error


def _holders(content: object) -> dict[str, dict[str, Tensor]]:
    """Every dictionary within `content` that holds tensors, by its place."""
    found: dict[str, dict[str, Tensor]] = {}
    waiting, seen = [("", content)], set[int]()
    while waiting:
        place, value = waiting.pop(0)
        # Each once: in a pickle a dictionary may hold itself.
        if not isinstance(value, Mapping) or id(value) in seen:
            continue
        seen.add(id(value))
        if tensors := {str(name): one for name, one in value.items() if isinstance(one, Tensor)}:
            found[place] = tensors
        waiting += [(f"{place}{name}.", one) for name, one in value.items()]
    return found
