"""`python -m stages.table` in the toy project: it trains what is missing, and only that."""

import json
import re
import shutil
import subprocess
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
    return folder


def command(methods: str) -> list[str]:
    return ["python", "-m", "stages.table", "--pairs", "tiny", "--methods", methods, "--protocol", "tiny"]


def table(project: Path, methods: str) -> str:
    return toy.run(project, *command(methods))


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


def test_a_run_that_fails_and_one_that_cannot_be_do_not_hold_up_the_others(project: Path) -> None:
    hopeless = "teacher: {arch: resnet14}\nstudent: {arch: resnet8}\ndistill: {methods: {kd: {kl_weight: 1.0e+38}}}\n"
    (project / "presets/pairs/tiny.yaml").write_text(hopeless)
    # Weights from outside go along to the node that takes them.
    table(project, "vanilla")
    shutil.copy2(next((project / "artifacts/table/teachers").glob("*/model.safetensors")), project / "artifacts")
    toy.edit(project, {"distill.train.batch_size": 21, "teacher.weights": "artifacts/model.safetensors"})
    run = subprocess.run(
        command("semckd,kd,vanilla"), cwd=project, env=toy.environment(), capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert re.search(r"^\[\d/3\] tiny vanilla seed 0: done; about \d+ min left$", run.stdout, re.MULTILINE), run.stdout
    assert run.stderr.strip().splitlines()[-1] == "error: 2 of 3 runs failed and 0 were left out, as said above."
    text = (project / "artifacts/table/tiny/RESULTS.md").read_text()
    assert "1 of 3 runs are finished." in text
    assert "tiny kd seed 0 failed: distill: the loss term" in text
    assert "tiny semckd seed 0 failed: distill: semckd compares the images of a batch" in text
    assert "| vanilla | **" in text
