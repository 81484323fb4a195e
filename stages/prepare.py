"""Read every image of the source once; leave memory-mapped splits, their audit and their card."""

from pathlib import Path

from pipeline.data import unlabelled
from pipeline.preparation import prepare as preparation
from pipeline.settings import params as parameters
from pipeline.system.files import sha256
from stages import _run


def prepare(params: Path, out: Path, source: Path | None = None, resume: Path | None = None) -> None:
    """Write train, val and test splits, audit.json and card.json of the data set that `data` in params.yaml names.

    `source` is the fingerprint of its files, by preflight; `resume` a folder where a pass over the images that was
    interrupted goes on from. Without either it begins anew.
    """
    data = parameters.load(params).data
    if source is None or resume is None:
        card = preparation.prepare(data, out)
    else:
        card = preparation.prepare(data, out, resume=resume, fingerprint=sha256(source))
    counts = ", ".join(f"{count} {name}" for name, count in card.counts.items())
    seen = "; train holds the val images too" if card.train_includes_val else ""
    without = f"; {unlabelled.load(out, card)[1].count} without labels" if data.unlabelled else ""
    print(f"{card.source}: {counts} images of {card.num_classes} classes, {card.image_px} px{seen}{without}")


if __name__ == "__main__":
    _run.main(prepare)
