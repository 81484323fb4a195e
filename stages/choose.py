"""Choose the student that is deployed, and hand it on under one path, whichever it is."""

import shutil
from dataclasses import asdict
from pathlib import Path

from pipeline.evaluation import choice
from pipeline.settings import params as parameters
from pipeline.settings.data import validation_label
from pipeline.system.files import replacing, write_json
from stages import _run

HANDED_ON = (
    "model.safetensors",
    "evaluation.json",
    *(f"plots/metrics/{name}.tsv" for name in ("val/top1", "val/nll", "train/loss")),
)


def choose(params: Path, students: Path, out: Path) -> None:
    """Write student.json to `out`, which names the chosen one of the METHOD/SEED folders below `students`.

    Its network, its scores and its learning curves lie beside, as copies: of a link, DVC might protect both ends.
    """
    settings = parameters.load(params)
    chosen = choice.choose(students, settings.deploy, settings.distill)
    folder = students / chosen.method / str(chosen.seed)
    for name in HANDED_ON:
        with replacing(out / name) as scratch:
            shutil.copyfile(folder / name, scratch)
    write_json(out / "student.json", asdict(chosen))
    number = chosen.of_methods * chosen.of_seeds
    why = "as params.yaml says" if number == 1 else f"the best of {number} students on validation"
    val = validation_label("validation", chosen.val_seen_in_training)
    print(f"{chosen.method} with seed {chosen.seed}, {why}: {val} top-1 {chosen.val_top1:.2f} %")


if __name__ == "__main__":
    _run.main(choose)
