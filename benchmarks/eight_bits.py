"""What do eight bits cost, by each way to make them?

    python -m benchmarks.eight_bits --cifar100 FOLDER --work FOLDER --out FILE

Every network trains on the real CIFAR-100 by a short schedule, with cross-entropy alone, and is exported. Then it is
made smaller three times: by the ranges of the calibration images (minmax), by the search (auto), and by training in
eight bits towards its own answers in float32 (distilled). The file of a distilled network that the gate refuses is that
of auto, as in the pipeline, and `how` says so. All files of a network are called in turns. What is finished stays in
the folder --work: the same command goes on from there, within an epoch too. Rows that --out has already are kept.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import provenance
from pipeline.models import checkpoint
from pipeline.models.base import count_macs, num_parameters
from pipeline.settings import presets
from pipeline.system.files import write_json
from serve import machine
from serve.timing import versus
from stages import _table_run
from stages.distill_int8 import distill_int8
from stages.export import export
from stages.quantize import quantize

ROWS = {
    "mobilenet_v2_half": 32,
    "timm/mobilenetv3_small_050": 64,
    "timm/efficientnet_b0": 64,
    "resnet20": 32,
    "wrn_16_2": 32,
}
"""Networks, and the size of images in px that each can read. CIFAR-100's 32 px are enlarged to 64."""
WAYS = ("minmax", "auto", "distilled")
THREADS = 1


def main() -> None:
    """Make what is not made yet and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eight_bits", description=__doc__.split("\n")[0])
    parser.add_argument("--cifar100", type=Path, required=True, help="folder of the real CIFAR-100")
    parser.add_argument("--work", type=Path, required=True, help="folder for data, networks and files")
    parser.add_argument("--rows", default=",".join(ROWS), help="which networks, by their names")
    parser.add_argument("--epochs", type=int, default=5, help="in float32")
    parser.add_argument("--int8-epochs", type=int, default=1, help="in eight bits")
    parser.add_argument("--int8-lr", type=float, default=5e-3)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    load = machine.load_average()
    earlier = json.loads(arguments.out.read_text(encoding="utf-8"))["rows"] if arguments.out.exists() else []
    train_int8 = {"epochs": arguments.int8_epochs, "lr": arguments.int8_lr, "teacher": "student"}
    rows = {row["network"]: row for row in earlier}
    for arch in arguments.rows.split(","):
        if arch not in rows:
            rows[arch] = _row(arch, arguments.cifar100, arguments.work, arguments.epochs, train_int8)
    write_json(
        arguments.out,
        {
            **provenance.head("eight_bits", load, "torch", "timm", "onnx", "onnxruntime", after=True),
            "seed": 0,
            "threads": THREADS,
            "rows": [rows[arch] for arch in ROWS if arch in rows],
        },
    )


def _row(arch: str, cifar100: Path, work: Path, epochs: int, train_int8: dict[str, Any]) -> dict[str, Any]:
    settings = settings_of(arch, cifar100, epochs)
    data, network = work / f"data-{ROWS[arch]}", work / f"{arch.replace('/', '-')}-{epochs}"
    _table_run.prepare(settings, data)
    _table_run.train_teacher(settings, data, network)
    weights, scores, deploy = network / "model.safetensors", network / "evaluation.json", network / "deploy"
    params = network / "settings.yaml"
    if not (deploy / "student.onnx").is_file():
        export(params, weights, scores, weights, scores, data, deploy)
    made = {"float32": deploy / "student.onnx"}
    results: dict[str, Any] = {}
    for way in WAYS:
        settings["quantize"] |= quantize_of(way, train_int8)
        folder = deploy / way
        params, record = _table_run.write_settings(folder, settings), folder / "quantization.json"
        distilled = folder / "distilled"
        if not (distilled / "record.json").is_file():
            distill_int8(params, made["float32"], weights, weights, data, distilled, folder / "resume")
        if not record.is_file():
            quantize(params, made["float32"], network / "logits.npy", data, folder / "files", record, distilled)
        students = json.loads(record.read_text(encoding="utf-8"))["students"]
        results["float32"], results[way] = _scores(students["float32"]), _scores(students["int8"])
        made[way] = folder / students["int8"]["file"]
    for name, timed in versus.beside(made, THREADS, (1, 32)).items():
        results[name]["latency"] = timed
    model, header = checkpoint.load(weights)
    return {
        "network": arch,
        "image_px": header.image_px,
        "epochs": epochs,
        "train_int8": train_int8,
        "parameters": num_parameters(model),
        "macs": count_macs(model, header.image_px),
        "files": results,
    }


def settings_of(arch: str, cifar100: Path, epochs: int) -> dict[str, Any]:
    """A whole params.yaml: the short protocol on CIFAR-100, with this network in the teacher's place."""
    layers = [Path("presets", f"{name}.yaml") for name in ("cifar100", "protocols/short")]
    settings = presets.overlaid(Path("params.yaml"), layers)
    settings["data"] |= {"path": str(cifar100.resolve()), "image_px": ROWS[arch]}
    settings["teacher"] |= {"arch": arch, "pretrained": False}
    settings["teacher"]["train"]["epochs"] = epochs
    settings["distill"]["methods"] = {"vanilla": settings["distill"]["methods"]["vanilla"]}
    return settings | {"deploy": settings["deploy"] | {"method": "vanilla", "seed": 0}}


def quantize_of(way: str, train_int8: dict[str, Any]) -> dict[str, Any]:
    """Settings of section quantize for one of WAYS."""
    method = "minmax" if way == "minmax" else "auto"
    return {"method": method, "train": train_int8 if way == "distilled" else None}


def _scores(student: dict[str, Any]) -> dict[str, Any]:
    """What quantization.json says of one file, but for what only a report needs."""
    kept = ("accepted", "reason", "drop_points", "how", "tried", "size_bytes")
    scores = {f"{split}_top1": student[split]["top1"] for split in ("val", "test")}
    return {**scores, **{key: student[key] for key in kept if key in student}}


if __name__ == "__main__":
    main()
