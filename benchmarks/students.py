"""Students of one teacher, cut from it or with smaller images than its own: what do they reach, and how fast are they?

    python -m benchmarks.students --weights FILE --cifar100 FOLDER --work FOLDER --rows ROW,ROW --out FILE

The teacher is the ResNet-56 of setting (a). Its students are the teacher itself with channels or blocks taken out, down
to the multiply-accumulates of ResNet-20, and ResNet-20 with images of 32 px and fewer. All train on the real CIFAR-100
by the same short schedule. A tenth of train is validation, which the published teacher has seen. At the end all are
exported and called in turns with the teacher. The finished ones stay in the folder --work: the same command goes on
from there, within an epoch too. Rows that --out has already are kept, so that several machines, or one in several
nights, can make one table. Times are those of the last run, of all networks that it knows: speed does not depend on
weights.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import provenance, setting_a
from pipeline.deployment import trial
from pipeline.models import checkpoint
from pipeline.models.base import Classifier, build, count_macs, num_parameters, spec_of, title
from pipeline.settings import presets
from pipeline.sweep.packing import EVALUATED
from pipeline.system.files import write_json
from serve import machine
from serve.timing import versus
from stages import _table_run

CLASSES, IMAGE_PX = 100, 32
WEIGHTS = "model.safetensors"
SHARE = 0.3246
"""Of the teacher's multiply-accumulates: ResNet-20 has 40.8 of 125.8 million, by torch's counter."""
RESNET20: dict[str, Any] = {"arch": "resnet20", "pruned": None}
AT_24, AT_16 = RESNET20 | {"image_px": 24}, RESNET20 | {"image_px": 16}


def cut(**settings: Any) -> dict[str, Any]:
    """Section student of params.yaml for a student cut from the teacher."""
    return {"arch": "pruned", "pruned": {"share_of_macs": SHARE, **settings}}


KEPT = cut(round_to=1)
FRESH = cut(round_to=1, keep_weights=False)
BY_8 = cut(round_to=8)
BLOCKS = cut(cut="blocks")
FRESH_BLOCKS = cut(cut="blocks", keep_weights=False)
ROWS: list[tuple[str, dict[str, Any], str, float, int]] = [
    # Name of the row, student, method, learning rate, epochs; in this order, so that what matters most comes first.
    ("resnet20-afd", RESNET20, "afd", 0.05, 10),
    ("kept-kd-0.02", KEPT, "kd", 0.02, 10),
    ("kept-vanilla-0.02", KEPT, "vanilla", 0.02, 10),
    ("kept-afd-0.02", KEPT, "afd", 0.02, 10),
    ("blocks-kd-0.02", BLOCKS, "kd", 0.02, 10),
    ("blocks-vanilla-0.02", BLOCKS, "vanilla", 0.02, 10),
    ("blocks-afd-0.02", BLOCKS, "afd", 0.02, 10),
    ("fresh-blocks-afd", FRESH_BLOCKS, "afd", 0.05, 10),
    ("fresh-afd", FRESH, "afd", 0.05, 10),
    ("fresh-kd", FRESH, "kd", 0.05, 10),
    ("kept-kd-0.05", KEPT, "kd", 0.05, 10),
    ("kept-vanilla-0.05", KEPT, "vanilla", 0.05, 10),
    ("kept-afd-0.05", KEPT, "afd", 0.05, 10),
    ("by-8-kd-0.02", BY_8, "kd", 0.02, 10),
    ("kept-kd-0.05-long", KEPT, "kd", 0.05, 30),
    ("kept-vanilla-0.05-long", KEPT, "vanilla", 0.05, 30),
    ("32-px", RESNET20, "kd", 0.05, 10),
    ("24-px", AT_24, "kd", 0.05, 10),
    ("16-px", AT_16, "kd", 0.05, 10),
]


def main() -> None:
    """Train what is not trained yet, time all and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.students", description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, help="the ResNet-56 of setting (a), a safetensors file")
    parser.add_argument("--cifar100", type=Path, required=True, help="folder of the real CIFAR-100")
    parser.add_argument("--work", type=Path, required=True, help="folder for data, teacher and students")
    parser.add_argument("--rows", default=",".join(name for name, *_ in ROWS), help="which rows, by their names")
    parser.add_argument("--epochs", type=int, help="of every row, instead of its own: for a trial")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    wanted = arguments.rows.split(",")
    rows = [(*row[:4], arguments.epochs or row[4]) for row in ROWS if row[0] in wanted]
    assert len(rows) == len(set(wanted)), f"the rows are {', '.join(name for name, *_ in ROWS)}"
    load, work = machine.load_average(), arguments.work
    data, teacher = work / "data", work / "teacher"
    earlier = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    known = {(row["row"], row["epochs"]): row for row in earlier.get("rows", [])}
    rows = [row for row in rows if (row[0], row[4]) not in known]
    for name, student, method, lr, epochs in rows:
        settings = _settings(arguments.weights, arguments.cifar100, student, method, lr, epochs)
        _table_run.prepare(settings, data)
        _table_run.train_teacher(settings, data, teacher)
        out = _folder(work, name, epochs)
        if not (out / EVALUATED).is_file():
            print(f"{name}: {epochs} epochs", flush=True)
            _table_run.train_student(settings, method, 0, data, teacher, out)
    made = [
        {"row": name, "method": method, "lr": lr, "epochs": epochs, **student, **_measured(_folder(work, name, epochs))}
        for name, student, method, lr, epochs in rows
    ]
    table = [*known.values(), *made]
    networks = [(checkpoint.load(teacher / WEIGHTS)[0], IMAGE_PX)]
    for row in table:
        file, image_px = _folder(work, row["row"], row["epochs"]) / WEIGHTS, row.get("image_px") or IMAGE_PX
        if file.is_file():
            networks.append((checkpoint.load(file)[0], image_px))
        elif row["arch"] != "pruned":  # trained elsewhere
            networks.append((build(spec_of(row["arch"], CLASSES, IMAGE_PX)), image_px))
    write_json(
        arguments.out,
        {
            **provenance.head("students", load, "torch", "torch-pruning", "onnxruntime", after=True),
            "seed": 0,
            "threads": 1,
            "batch_size": 64,
            "teacher": _measured(teacher),
            "earlier_commands": [*earlier.get("earlier_commands", []), *([earlier["command"]] if earlier else [])],
            "rows": table,
            "latency": _latency(networks, work),
        },
    )


def _folder(work: Path, row: str, epochs: int) -> Path:
    return work / f"{row}-{epochs}"


def _settings(
    weights: Path, images: Path, student: dict[str, Any], method: str, lr: float, epochs: int
) -> dict[str, Any]:
    """A whole params.yaml: the short protocol on CIFAR-100, with one method."""
    layers = [Path("presets", f"{name}.yaml") for name in ("cifar100", "protocols/short")]
    settings = presets.overlaid(Path("params.yaml"), layers)
    settings["data"]["path"] = str(images.resolve())
    return setting_a.taught(settings, weights, student, method, epochs=epochs, lr=lr)


def _measured(folder: Path) -> dict[str, Any]:
    """Accuracy after the last epoch, and the size."""
    network, header = checkpoint.load(folder / WEIGHTS)
    scores = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    return {
        "network": title(network.spec),
        "parameters": num_parameters(network),
        "macs": count_macs(network, header.image_px),
        "val_top1": scores["val"]["top1"],
        "test_top1": scores["test"]["top1"],
    }


def _latency(networks: list[tuple[Classifier, int]], work: Path) -> dict[str, Any]:
    """One file for each kind of network and image size: those that differ in their weights alone are equally fast."""
    files: dict[str, Path] = {}
    for network, image_px in networks:
        name = f"{title(network.spec)}, {count_macs(network, image_px)} MACs"
        if name not in files:
            files[name] = trial.write(network, image_px, 20, work / f"{len(files)}.onnx")
    return versus.beside(files, 1, (1, 32))


if __name__ == "__main__":
    main()
