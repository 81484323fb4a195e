"""What do images without labels give where labels are few?

    python -m benchmarks.unlabelled --weights FILE --cifar100 FOLDER --work FOLDER --out FILE

A tenth of the train split of the real CIFAR-100 keeps its labels, the rest becomes data.unlabelled. The teacher is the
ResNet-56 of setting (a), which has seen all of these images with their labels: that of somebody who has a good teacher
and few labels. Every student trains twice from each seed, for the same number of steps of 64 images: on labelled images
alone, and with a share of others in each batch, for so many fewer epochs. The finished ones stay in the folder --work:
the same command goes on from there, within an epoch too.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from PIL import Image

from benchmarks import provenance, setting_a
from pipeline.preparation.divide import hold_out
from pipeline.settings import presets
from pipeline.settings.data import Data
from pipeline.sources import huggingface
from pipeline.sweep.packing import EVALUATED
from pipeline.system.files import write_json
from pipeline.system.scratch import replacing_folder
from serve import machine
from stages import _table_run

LABELLED = 0.1
"""Share of each class of train that keeps its label."""


def main() -> None:
    """Train what is not trained yet and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unlabelled", description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, help="the ResNet-56 of setting (a), a safetensors file")
    parser.add_argument("--cifar100", type=Path, required=True, help="folder of the real CIFAR-100")
    parser.add_argument("--work", type=Path, required=True, help="folder for images, data, teacher and students")
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--methods", default="kd,afd")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--share", type=float, default=0.5, help="of images without labels in each batch")
    parser.add_argument("--epochs", type=int, default=30, help="over the labelled images, of students with the others")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    load, work = machine.load_average(), arguments.work
    divided(arguments.cifar100, work / "images")
    rows = []
    for seed in map(int, arguments.seeds.split(",")):
        for method in arguments.methods.split(","):
            # Batches are as large with and without the others, so that an epoch without them has fewer steps.
            for share, epochs in (
                (0.0, round(arguments.epochs / (1 - arguments.share))),
                (arguments.share, arguments.epochs),
            ):
                settings = settings_of(arguments.weights, work / "images", arguments.student, method, share, epochs)
                _table_run.prepare(settings, work / "data")
                _table_run.train_teacher(settings, work / "data", work / "teacher")
                out = work / f"{arguments.student}-{method}-{share:g}-{epochs}-{seed}"
                if not (out / EVALUATED).is_file():
                    print(f"{method}, share {share:g}, {epochs} epochs, seed {seed}", flush=True)
                    _table_run.train_student(settings, method, seed, work / "data", work / "teacher", out)
                rows.append({"method": method, "share": share, "epochs": epochs, "seed": seed, **_scores(out)})
    write_json(
        arguments.out,
        {
            **provenance.head("unlabelled", load, "torch", after=True),
            "student": arguments.student,
            "images": json.loads((work / "data/card.json").read_text(encoding="utf-8"))["counts"],
            "without_labels": json.loads((work / "data/unlabelled/card.json").read_text(encoding="utf-8"))["count"],
            "batch_size": settings["distill"]["train"]["batch_size"],
            "teacher": _scores(work / "teacher"),
            "rows": rows,
            "summary": summary(rows),
        },
    )


def divided(cifar100: Path, out: Path) -> None:
    """Write train/CLASS, test/CLASS and unlabelled with an image file each, unless they are there."""
    if out.is_dir():
        return
    data = Data(source="huggingface", path=str(cifar100))
    source = huggingface.open_source(huggingface.Config(image_column="img", label_column="fine_label"), data)
    train, test = source.splits["train"], source.splits["test"]
    others, labelled = hold_out(train.labels, LABELLED, seed=0)
    with replacing_folder(out) as scratch:
        for records, split, chosen in ((train, "train", labelled), (test, "test", range(len(test)))):
            for number in chosen:
                _save(records.read(int(number)), scratch / split / source.labels[records.labels[number]], int(number))
        for number in others:
            _save(train.read(int(number)), scratch / "unlabelled", int(number))


def _save(pixels: Any, folder: Path, number: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / f"{number:05}.png")


def settings_of(weights: Path, images: Path, student: str, method: str, share: float, epochs: int) -> dict[str, Any]:
    """A whole params.yaml: the short protocol on these images, with one method."""
    settings = presets.overlaid(Path("params.yaml"), [Path("presets/protocols/short.yaml")])
    settings["data"] |= {
        "source": "folder",
        "path": str(images.resolve()),
        "unlabelled": str((images / "unlabelled").resolve()),
        "image_px": 32,
    }
    return setting_a.taught(settings, weights, {"arch": student}, method, epochs=epochs, unlabelled_share=share)


def _scores(folder: Path) -> dict[str, float]:
    scores = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    return {f"{split}_top1": scores[split]["top1"] for split in ("val", "test")}


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each method and share, over the seeds: mean and standard deviation (None of one seed) of test top-1."""
    kinds = dict.fromkeys((row["method"], row["share"]) for row in rows)
    of = {kind: [row["test_top1"] for row in rows if (row["method"], row["share"]) == kind] for kind in kinds}
    return [
        {
            "method": method,
            "share": share,
            "seeds": len(top1),
            "test_top1_mean": mean(top1),
            "test_top1_std": stdev(top1) if len(top1) > 1 else None,
        }
        for (method, share), top1 in of.items()
    ]


if __name__ == "__main__":
    main()
