"""Draw where the networks look, on a few test images that are drawn before any of them is asked."""

import json
from pathlib import Path

import torch

from pipeline.data import card as cards
from pipeline.data.arrays import Split
from pipeline.data.feed import Feed
from pipeline.evaluation import energy_maps as maps
from pipeline.models import checkpoint
from pipeline.settings import params as parameters
from pipeline.system.files import write_json
from stages import _run

_IMAGES = 6
_SEED = 0
_SHOWN = ("vanilla", "at", "afd", "sakd")
"""The baseline, and the methods that compare energy maps; with the one that ships they are at most five."""


def energy_maps(params: Path, data: Path, teacher: Path, students: Path, chosen: Path, out: Path) -> None:
    """Write energy maps of the teacher and of METHOD/SEED folders below `students` to the JSON file `out`.

    `chosen` is the JSON file that names the student that ships.
    """
    settings = parameters.load(params)
    card = cards.load(data)
    split = Split.load(data, "test", card)
    device = torch.device("cpu")
    positions = torch.from_numpy(maps.spread_over_classes(split.labels, _IMAGES, _SEED))
    ships = json.loads(chosen.read_text(encoding="utf-8"))
    shown = [name for name in settings.distill.methods if name in (*_SHOWN, ships["method"])]
    files = {"teacher": teacher}
    # All of the seed that ships: they began from the same weights.
    files |= {name: students / name / str(ships["seed"]) / "model.safetensors" for name in shown}
    networks = []
    for name, file in files.items():
        model, header = checkpoint.load(file)
        seen_by_it = Feed(Split.load(data, "test", card, header.image_px), header.normalization, device)
        networks.append(maps.look(name, model, header, seen_by_it.images(positions)))
    seen = maps.pictures(Feed(split, card.normalization, device), positions)
    images_shown = [
        {"position": position, "label": card.labels[split.labels[position]], "png": png}
        for position, png in zip(positions.tolist(), seen, strict=True)
    ]
    write_json(out, {"image_px": card.image_px, "images": images_shown, "networks": networks})
    print(f"energy maps of {', '.join(files)} on {len(positions)} test images")


if __name__ == "__main__":
    _run.main(energy_maps)
