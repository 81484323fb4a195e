"""The benchmark of images without labels trains on what it says it does."""

from pathlib import Path

import datasets
import pytest

from benchmarks import unlabelled
from pipeline.preparation import prepare
from pipeline.settings import params
from pipeline.settings.params import Params
from tests.sources.test_huggingface import png

LABELS = [0] * 20 + [1] * 20


@pytest.fixture
def cifar100(tmp_path: Path) -> Path:
    """Two classes of 20 images in train and 20 others in test, in columns of the same names."""
    folder = tmp_path / "cifar100"
    folder.mkdir()
    features = datasets.Features(
        {"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=["apple", "lawn_mower"])}
    )
    for number, split in enumerate(("train", "test")):
        cells = [{"bytes": png(100 * number + row), "path": None} for row in range(len(LABELS))]
        table = datasets.Dataset.from_dict({"img": cells, "fine_label": LABELS}, features=features)
        table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def test_a_tenth_keeps_its_labels_and_the_rest_has_none(
    cifar100: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "images"
    unlabelled.divided(cifar100, images)
    found = {place: sorted(path.name for path in (images / place).glob("*.png")) for place in PLACES}
    assert {place: len(names) for place, names in found.items()} == PLACES
    assert len({*found["train/apple"], *found["train/lawn_mower"], *found["unlabelled"]}) == 40
    monkeypatch.chdir(Path(__file__).parents[2])
    settings = unlabelled.settings_of(tmp_path / "weights", images, "resnet8", "kd", 0.5, 3)
    checked = Params.model_validate(settings)
    params.check_all(checked)
    assert checked.distill.train.unlabelled_size == checked.distill.train.labelled_size == 32
    card = prepare.prepare(checked.data, tmp_path / "out", progress=False)
    assert card.counts == {"train": 2, "val": 2, "test": 40}


PLACES = {"train/apple": 2, "train/lawn_mower": 2, "test/apple": 20, "test/lawn_mower": 20, "unlabelled": 36}


def test_seeds_are_summed_up_for_each_method_and_share() -> None:
    rows = [
        {"method": method, "share": share, "test_top1": top1 + seed}
        for method, share, top1 in (("kd", 0.0, 10), ("kd", 0.5, 20), ("afd", 0.0, 30))
        for seed in (0, 2)
    ]
    got = [(it["method"], it["share"], it["seeds"], it["test_top1_mean"]) for it in unlabelled.summary(rows)]
    assert got == [("kd", 0.0, 2, 11), ("kd", 0.5, 2, 21), ("afd", 0.0, 2, 31)]
    assert unlabelled.summary(rows)[0]["test_top1_std"] == pytest.approx(2**0.5)
    assert unlabelled.summary(rows[:1])[0]["test_top1_std"] is None
