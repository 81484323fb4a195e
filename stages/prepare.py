"""Read every image of the source once; leave memory-mapped splits and their card."""

from pathlib import Path

from pipeline import params as parameters
from pipeline.data import prepare as preparation
from stages import _run


def prepare(params: Path, out: Path) -> None:
    """Write train, val and test splits and card.json of the data set that `data` in params.yaml names."""
    card = preparation.prepare(parameters.load(params).data, out)
    counts = ", ".join(f"{count} {name}" for name, count in card.counts.items())
    print(f"{card.source}: {counts} images of {card.num_classes} classes, {card.image_px} px")


if __name__ == "__main__":
    _run.main(prepare)
