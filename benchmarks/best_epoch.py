"""Test top-1 after each epoch of a training under way: what others choose a printed "best accuracy" from.

    python -m benchmarks.best_epoch --state .resume/vanilla-0.safetensors --out FILE

The best test figure of all epochs is chosen on the test split. Pupil never does that, but many published tables do, and
a figure of ours that stands beside theirs has to be made as theirs was. Run this beside the training: it reads the
state that is left after each epoch, and ends when there is none any more. So the last epoch may be missing; its figure
is that of stage evaluate. The same command goes on with a curve that it began.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import provenance
from pipeline.data import card as cards
from pipeline.data.arrays import Split
from pipeline.data.feed import Feed
from pipeline.devices.precision import best_device
from pipeline.evaluation import metrics
from pipeline.models import checkpoint
from pipeline.models.base import Classifier, build, spec_of
from pipeline.settings import params as parameters
from pipeline.system.errors import CheckpointError
from pipeline.system.files import write_json
from pipeline.training.state import under
from serve import machine

SECONDS = 1
"""Between two looks at the state; an epoch that is worth this takes longer."""


def main() -> None:
    """Follow the training until its state is gone, and write the JSON after each epoch."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.best_epoch", description=__doc__.split("\n")[0])
    parser.add_argument("--state", type=Path, required=True, help="what the training leaves after each epoch")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--data", type=Path, default=Path("data/prepared"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    head = provenance.head("best_epoch", machine.load_average(), "torch")
    card, student = cards.load(arguments.data), parameters.load(arguments.params).student
    image_px = student.image_px or card.image_px
    network = build(spec_of(student.arch, card.num_classes, image_px))
    test = Feed(Split.load(arguments.data, "test", card, image_px), card.normalization, best_device())
    seen = 0
    while arguments.state.exists():
        if (written := arguments.state.stat().st_mtime_ns) != seen:
            seen = written
            follow(arguments.state, network, test, arguments.out, head)
        time.sleep(SECONDS)


def follow(state: Path, network: Classifier, test: Feed, out: Path, head: dict[str, Any]) -> None:
    """Add the epoch after which `state` was left to the curve in `out`; nothing, where that was within an epoch.

    `network` gets the student's weights, or their averages where the training averages them. Raises CheckpointError
    where the curve is of another training.
    """
    tensors, facts = checkpoint.read_tensors(state)
    if facts is None or "history" not in facts:
        raise CheckpointError(f"{state} is not the state of a training. Name a file in .resume, of a student.")
    curve = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"training": facts["key"], "epochs": []}
    if curve["training"] != facts["key"]:
        raise CheckpointError(f"{out} is the curve of another training than {state}. Name another file in --out.")
    epoch = len(facts["history"])
    if facts["tally"]["steps"] or epoch in [row["epoch"] for row in curve["epochs"]]:
        return
    network.load_state_dict(under("method/student.", tensors) | under("average/student.", tensors))
    row = {"epoch": epoch, **metrics.classification(*metrics.predict(network, test))}
    epochs = [*curve["epochs"], row]
    best = max(epochs, key=lambda row: row["top1"])
    write_json(out, {**head, "training": facts["key"], "images": len(test), "best_on_test": best, "epochs": epochs})
    print(f"epoch {epoch}: test top-1 {row['top1']:.2f} %, best {best['top1']:.2f} % after {best['epoch']}", flush=True)


if __name__ == "__main__":
    main()
