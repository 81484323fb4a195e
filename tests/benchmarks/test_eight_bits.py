"""The benchmark of eight bits asks the pipeline for networks and settings that there are."""

from pathlib import Path

import pytest

from benchmarks import eight_bits
from pipeline.models.base import build, shapes, spec_of
from pipeline.settings import params
from pipeline.settings.params import Params


@pytest.mark.parametrize("arch", eight_bits.ROWS)
def test_every_row_is_a_network_that_reads_its_images(
    arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    checked = Params.model_validate(eight_bits.settings_of(arch, tmp_path, 3))
    params.check_all(checked)
    assert (checked.teacher.arch, checked.teacher.train.epochs) == (arch, 3)
    network = build(spec_of(arch, 100, checked.data.image_px))
    assert shapes(network, checked.data.image_px).classes == 100


def test_every_way_is_a_setting_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    settings = eight_bits.settings_of("resnet20", tmp_path, 3)
    train = {"epochs": 2, "lr": 0.005, "teacher": "student"}
    seen = [
        Params.model_validate(
            settings | {"quantize": settings["quantize"] | eight_bits.quantize_of(way, train)}
        ).quantize
        for way in eight_bits.WAYS
    ]
    assert [(q.method, q.train is not None) for q in seen] == [("minmax", False), ("auto", False), ("auto", True)]
