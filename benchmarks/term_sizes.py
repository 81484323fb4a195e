"""How large the terms of attention methods are, with their default weights, on small and on large images.

    python -m benchmarks.term_sizes --out FILE

AFD, AT and SAKD take the mean over H * W of squared distances between maps of unit norm, so that a large map counts for
little. Fresh networks of several pairs see the same pieces of the photographs that scikit-learn ships, at 32 and at 224
pixels.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_sample_images

from benchmarks import provenance
from benchmarks.pair import NORMALIZATION
from pipeline.data import augment
from pipeline.data.card import DataCard
from pipeline.distillation.base import Teacher, find
from pipeline.distillation.batch import Batch
from pipeline.models.base import build, shapes
from pipeline.preparation import decode
from pipeline.system.files import write_json
from serve import machine

PAIRS = (
    (32, "wrn_40_2", "wrn_16_2"),
    (32, "resnet32x4", "resnet8x4"),
    (224, "resnet34", "resnet18"),
    (224, "timm/resnet34", "timm/resnet18"),
    (224, "wrn_40_2", "wrn_16_2"),
)
METHODS = {"afd": "attention", "at": "attention", "sakd": "sad"}
"""And the names of their terms."""
PIECES, CLASSES, SEED = 8, 10, 0


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.term_sizes", description="Compare sizes of loss terms.")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    head = provenance.head("term_sizes", machine.load_average(), "torch", "pillow", "scikit-learn")
    results = [measure(*pair) for pair in PAIRS]
    write_json(
        arguments.out,
        {
            **head,
            "seed": SEED,
            "images": PIECES,
            "results": results,
        },
    )


def measure(image_px: int, teacher: str, student: str) -> dict[str, Any]:
    """The term of each method on one batch, before any training."""
    rng = np.random.default_rng(SEED)
    whole = load_sample_images().images  # type: ignore[no-untyped-call]  # ships no types
    places = zip(
        rng.integers(0, 2, PIECES), rng.integers(0, 428 - 224, PIECES), rng.integers(0, 641 - 224, PIECES), strict=True
    )
    pieces = [decode.square(whole[i][top : top + 224, left : left + 224], image_px) for i, top, left in places]
    pixels = torch.from_numpy(np.stack(pieces))
    images = augment.Normalizer(NORMALIZATION, pixels.shape[2], pixels.device)(pixels)
    positions = torch.arange(PIECES)
    terms = {}
    for name, term in METHODS.items():
        torch.manual_seed(SEED)
        networks = [build({"arch": arch, "num_classes": CLASSES}) for arch in (teacher, student)]
        # The teacher's BN has seen images; its statistics are not the initial ones.
        networks[0].train()(images)
        module = find(name)
        borrowed = Teacher(networks[0].eval(), NORMALIZATION)
        method = module.Method(module.Config(), networks[1], borrowed, _card(image_px)).train()
        with torch.no_grad():
            terms[name] = method(Batch(images, positions % CLASSES, positions, 0.0, 0)).terms[term].item()
    maps = [stage.height for stage in shapes(networks[0], image_px).stages]
    print(f"{image_px} px, {teacher} to {student}: {terms}", flush=True)
    return {"image_px": image_px, "teacher": teacher, "student": student, "stage_map_px": maps, "terms": terms}


def _card(image_px: int) -> DataCard:
    return DataCard(
        source="photographs",
        labels=tuple(map(str, range(CLASSES))),
        image_px=image_px,
        storage_px=image_px,
        counts={"train": PIECES},
        class_counts={},
        normalization=NORMALIZATION,
        sha256={},
        licence=None,
    )


if __name__ == "__main__":
    main()
