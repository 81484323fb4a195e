"""`python -m stages.table` in the toy project: it trains what is missing, and only that."""

import json
import shutil
from pathlib import Path

import pytest

from tests import toy

pytestmark = pytest.mark.slow

PAIR = "teacher: {arch: resnet14}\nstudent: {arch: resnet8}\n"
PROTOCOL = "teacher: {train: {epochs: 1}}\ndistill: {train: {epochs: 1}}\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = toy.make(tmp_path_factory.mktemp("table"))
    for path, text in (("pairs/tiny.yaml", PAIR), ("protocols/tiny.yaml", PROTOCOL)):
        (folder / "presets" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "presets" / path).write_text(text)
    (folder / "results").mkdir()
    shutil.copy2(toy.ROOT / "results" / "published_top1.yaml", folder / "results")
    return folder


def table(project: Path, methods: str) -> str:
    return toy.run(
        project, "python", "-m", "stages.table", "--pairs", "tiny", "--methods", methods, "--protocol", "tiny"
    )


def test_a_table_is_filled_and_only_what_is_missing_is_trained(project: Path) -> None:
    assert "1 runs, 1 of them missing" in table(project, "vanilla")
    out = project / "artifacts" / "table"
    trained = next(out.rglob("vanilla/0/model.safetensors"))
    before = trained.stat().st_mtime_ns

    said = table(project, "vanilla,norm")
    assert "2 runs, 1 of them missing" in said
    assert "[1/1] tiny norm seed 0" in said
    assert trained.stat().st_mtime_ns == before
    assert len(list(out.glob("teachers/*/model.safetensors"))) == 1

    results = json.loads((out / "tiny" / "results.json").read_text())
    assert set(results["pairs"]["tiny"]) == {"vanilla", "norm"}
    assert results["pairs"]["tiny"]["norm"]["num_parameters"] == results["pairs"]["tiny"]["vanilla"]["num_parameters"]
    assert "| norm | **" in (out / "tiny" / "RESULTS.md").read_text()
    assert "0 of them missing" in table(project, "vanilla,norm")
