"""Of benchmarks/gpu.py, what is made of whole programs: the default run's trainings, ONNX Runtime, and the server."""

import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from benchmarks import http_load, wrn_onnx
from benchmarks.pair import IMAGE_PX
from benchmarks.serving import ROOT, served
from pipeline.devices.precision import best_device
from serve.errors import ServeError
from serve.model.classifier import OnnxClassifier
from serve.model.devices import Device
from serve.timing import latency
from stages.distill import distill
from stages.prepare import prepare
from stages.train_teacher import train_teacher

MODEL = "student"
DEVICES: tuple[Device, ...] = ("cpu", "cuda")


def trainings(tiny: bool) -> dict[str, Any]:
    """Seconds and validation top-1 of the default run's teacher and students, each by its stage."""
    settings = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    methods, (seed, *_) = list(settings["distill"]["methods"]), settings["distill"]["seeds"]
    if tiny:
        methods = methods[:1]
        settings["data"]["sources"]["digit_pairs"] |= {"train": 200, "val": 100, "test": 100}
        for training in (settings["teacher"]["train"], settings["distill"]["train"]):
            training["epochs"] = 1
    record: dict[str, Any] = {"device": str(best_device()), "seed": seed}
    with tempfile.TemporaryDirectory() as scratch:
        params, data, teacher, resume = (Path(scratch, name) for name in ("settings.yaml", "data", "teacher", "resume"))
        YAML(typ="safe", pure=True).dump(settings, params)
        prepare(params, data)
        started = time.perf_counter()
        train_teacher(params, data, teacher, resume)
        record["teacher"] = _outcome(teacher, started)
        for method in methods:
            student, started = Path(scratch, method), time.perf_counter()
            distill(params, method, seed, teacher / "model.safetensors", data, student, resume)
            record[method] = _outcome(student, started)
    return record


def _outcome(folder: Path, started: float) -> dict[str, float]:
    seconds = time.perf_counter() - started
    history = json.loads((folder / "history.json").read_text())
    return {"seconds": seconds, "val_top1": history["epochs"][-1]["val"]["top1"]}


def onnx_runtime(rounds: int) -> dict[str, Any]:
    """Milliseconds of a WRN-16-2 in the process, on the processor and on the GPU in turns, and of the server on each.

    The processor computes with one thread. A device that ONNX Runtime cannot use is left out with its reason.
    """
    record: dict[str, Any] = {}
    calls: dict[str, Callable[[], object]] = {}
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        path = wrn_onnx.write(Path(scratch, f"{MODEL}.onnx"), MODEL)
        for device in DEVICES:
            try:
                classifier = OnnxClassifier(path, device=device)
            except ServeError as error:
                record[device] = {"left_out": str(error)}
                continue
            record[device] = {"provider": classifier.provider, "server": _server(path, device, rounds)}
            for images in (1, 32):
                pixels = generator.integers(0, 256, (images, IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8)
                calls[f"{device}, batch {images}"] = partial(classifier, pixels)
        for name, samples in latency.measure(calls, rounds).items():
            record[name] = latency.summary(samples).to_dict()
    return record


def _server(path: Path, device: Device, rounds: int) -> dict[str, Any]:
    """Milliseconds of one client that sends an image as raw bytes, one request after the other."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8)
    with served(path, "--device", device) as running:
        target = http_load.binary_target(running.port, MODEL, pixels)
        http_load.one_at_a_time(target, max(3, rounds // 10))
        return latency.summary(http_load.one_at_a_time(target, rounds)).to_dict()
