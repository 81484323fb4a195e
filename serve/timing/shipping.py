"""Which of a student's files ships on this machine: of those that passed the gate, the fastest, or the smallest.

`deployed.onnx` is a copy of the file that ships, so that everything that serves, times or hands it on has one name for
it. `deployed.json` says which file it is and why:

    file               below the folder, such as quantized/student.int8.onnx
    reason             one sentence, and what the time of int8 goes into where it is slower than the file that ships
    prefer, batch_size, threads, device, machine
                       what was asked for, and where it was measured
    candidates         by file: size_bytes, and `versus.at`'s record, times_as_fast as the smallest file
    left_out           by file: why it was none
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from serve import files, json_file, machine
from serve.errors import ServeError
from serve.model.card import Card
from serve.model.devices import Device
from serve.timing import profiled, versus
from serve.timing.candidates import best_device, usable

Prefer = Literal["speed", "size"]
STUDENT, DEPLOYED, MANIFEST = "student.onnx", "deployed.onnx", "deployed.json"
INT8 = "quantized/student.int8.onnx"


@dataclass(frozen=True)
class Wish:
    """What somebody asks of the file that ships."""

    prefer: Prefer = "speed"
    batch_size: int = 1
    threads: int = 1
    device: Device = "auto"


def ship(folder: Path, wish: Wish, clock: Callable[[], int] = time.perf_counter_ns) -> dict[str, Any]:
    """Measure the student's files in `folder`, copy the one that ships to deployed.onnx, and write deployed.json.

    Returns the content of deployed.json. Raises ServeError where there is no student, or nothing can be written.
    """
    student = folder / STUDENT
    if not student.is_file():
        raise ServeError(f"{folder} holds no {STUDENT}. Name the folder that stage export writes, artifacts/deploy.")
    device = best_device(student) if wish.device == "auto" else wish.device
    more, left_out = usable(folder / "quantized", device)
    paths = sorted([student, *more.values()], key=lambda path: path.stat().st_size)
    by_file = {path.relative_to(folder).as_posix(): path for path in paths}
    records = versus.at(by_file, wish.threads, wish.batch_size, clock, device)
    file, reason = choose(records, wish.prefer)
    if device == "cpu" and INT8 in by_file and records[file]["p50_ms"] < records[INT8]["p50_ms"]:
        content = by_file[INT8].read_bytes()
        pixels = versus.noise(wish.batch_size, Card.of_file(content).image_px)
        reason += f"; the time of {INT8} goes into {profiled.told(profiled.shares(content, pixels, wish.threads))}"
    manifest = {
        "file": file,
        "reason": reason,
        "prefer": wish.prefer,
        "batch_size": wish.batch_size,
        "threads": wish.threads,
        "device": device,
        "machine": machine.describe(),
        "candidates": {name: {"size_bytes": path.stat().st_size, **records[name]} for name, path in by_file.items()},
        "left_out": left_out,
    }
    files.copy(by_file[file], folder / DEPLOYED)
    json_file.write(folder / MANIFEST, manifest)
    return manifest


def choose(records: Mapping[str, Mapping[str, Any]], prefer: Prefer) -> tuple[str, str]:
    """The file that ships and why; `records` of `versus.at`, the smallest file first.

    A larger file is faster only where the 95 % interval of its speed, as a multiple of the smallest file's, lies above
    1: of equally fast files the smaller one ships.
    """
    smallest = next(iter(records))
    if len(records) == 1:
        return smallest, "no other file was accepted for this device"
    if prefer == "size":
        return smallest, "it is the smallest file, as asked for"
    faster = {name: it["times_as_fast"] for name, it in records.items() if it["times_as_fast"]["low"] > 1}
    if not faster:
        return smallest, "it is the smallest file, and no other one is faster beyond doubt"
    best = max(faster, key=lambda name: faster[name]["median"])
    ratio = faster[best]
    return best, (
        f"it is {ratio['median']:.2f} times as fast [{ratio['low']:.2f}, {ratio['high']:.2f}] as {smallest}, the "
        "smallest file"
    )


def told(manifest: Mapping[str, Any]) -> str:
    """What deployed.json says, for people."""
    lines = [
        f"{name}: {it['size_bytes'] / 1e3:,.0f} kB, {it['p50_ms']:.3f} ms a call (p50 of {it['n']})"
        for name, it in manifest["candidates"].items()
    ]
    lines += [f"Left out: {why}." for why in manifest["left_out"].values()]
    return "\n".join([*lines, f"{DEPLOYED} is {manifest['file']}: {manifest['reason']}."])
