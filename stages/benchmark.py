"""Time the deployed student beside its teacher: the same images in, probabilities out, interleaved in one process.

The teacher is timed in torch and in ONNX Runtime, so that "smaller model" and "other runtime" are told apart, and the
student in every number format that there is a file of.
"""

import json
import sys
from pathlib import Path

from pipeline.data import card as cards
from pipeline.data.arrays import Split
from pipeline.settings import params as parameters
from pipeline.system.files import write_csv, write_json
from serve.errors import ServeError
from serve.machine import load_average
from serve.model.classifier import OnnxClassifier
from serve.timing import benchmark as bench
from serve.timing import tables
from serve.timing.candidates import Candidate, best_device, open_onnx, usable
from serve.timing.loadgen import is_installed
from stages import _run
from stages._torch_candidate import open_torch

_IMAGES = 256
"""Of the test split, to draw batches from."""


def benchmark(
    params: Path,
    student: Path,
    teacher: Path,
    deploy: Path,
    data: Path,
    machine: Path,
    out: Path,
    metrics: Path,
    plots: Path,
    quantized: Path | None = None,
) -> None:
    """Write what every candidate takes to the JSON file `out`, its headline to `metrics`, raw samples below `plots`.

    `quantized` holds the student in further number formats, as student.int8.onnx.
    """
    settings = parameters.load(params).benchmark
    loadgen = settings.loadgen if is_installed() else None
    plan = bench.Plan(
        settings.batch_sizes,
        settings.samples,
        settings.warmup,
        settings.seed,
        settings.thread_counts,
        settings.cold_starts,
        None if loadgen is None else bench.LoadGen(loadgen.seconds, loadgen.server_p99_ms),
    )
    if (warning := bench.busy()) is not None:
        print(warning, file=sys.stderr)
    device = best_device(deploy / "student.onnx") if settings.device == "auto" else "cpu"
    more, left_out = usable(quantized, device)
    if settings.loadgen is not None and loadgen is None:
        left_out["MLPerf"] = "MLPerf's scenarios need the package mlcommons-loadgen, which this system does not have"
    exported = {"student": deploy / "student.onnx", "teacher": deploy / "teacher.onnx"}
    exported |= {f"student_{kind}": path for kind, path in more.items()}
    data_card = cards.load(data)
    cards_of = {name: OnnxClassifier(path, device="cpu").card for name, path in exported.items()}
    splits = {name: Split.load(data, "test", data_card, card.image_px) for name, card in cards_of.items()}
    pixels = {name: split.drawn(_IMAGES, settings.seed) for name, split in splits.items()}
    where = (settings.threads, device)
    in_onnx = [Candidate(f"{name}_onnx", path, pixels[name], open_onnx, *where) for name, path in exported.items()]
    trained = {"student": student, "teacher": teacher}
    in_torch = [Candidate(f"{name}_torch", path, pixels[name], open_torch, *where) for name, path in trained.items()]
    load = load_average()
    batches, raw = bench.side_by_side([*in_onnx, *in_torch], bench.decomposition(list(more)), plan)
    alone = [*in_onnx, *in_torch] if settings.torch_alone else in_onnx
    records = [bench.one_by_one(candidate, plan, candidate.make is open_onnx) for candidate in alone]
    for name, rows in (("latency", bench.sample_rows(raw)), ("throughput", bench.throughput_rows(batches))):
        write_csv(plots / f"{name}.csv", rows)
    top1 = {f"{name}_onnx": card.metrics.get("top1") for name, card in cards_of.items()}
    write_json(
        out,
        {
            "machine": json.loads(machine.read_text(encoding="utf-8")),
            "load_average": load,
            "threads": settings.threads,
            "device": device,
            "batches": batches,
            "candidates": [{**record, "top1": top1.get(record["name"])} for record in records],
            "left_out": left_out,
            "size_bytes": {path.name: path.stat().st_size for path in exported.values()},
        },
    )
    file_bytes = {name: path.stat().st_size for name, path in exported.items()}
    write_json(metrics, bench.headline(batches) | {"file_bytes": file_bytes})
    shown = [tables.side_by_side(batches), tables.ratios(batches), tables.pauses(batches), tables.one_by_one(records)]
    print("\n\n".join(filter(None, [*shown, *(f"Left out: {why}." for why in left_out.values())])))


if __name__ == "__main__":
    _run.main(benchmark, ServeError)
