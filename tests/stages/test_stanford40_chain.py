"""The whole DAG on a set in Stanford40's layout, from listed photographs of mixed sizes to the report.

The commands are dvc.yaml's own, in DVC's order, but in this process: a fresh one for each of them costs a minute. With
larger networks at 224 pixels, and through `dvc repro`, tests/docs/test_followed.py takes the same way.
"""

import importlib
import json
import shlex
import sys
from pathlib import Path

import pytest

from stages import _run
from tests import photographs, toy

CHAIN = {
    **toy.SMALL,
    "data.source": "stanford40",
    "data.path": "stanford40",
    "data.image_px": 24,
    "data.storage_px": 32,
    "data.sources": {"stanford40": {}},
    "augment.crop": "resized",
    "augment.flip": True,
    "teacher.train.batch_size": 8,
    "teacher.train.epochs": 1,
    "distill.train.batch_size": 8,
    "distill.train.epochs": 1,
    "distill.methods": {"vanilla": {}, "afd": {"attention_weight": 200.0}},
    "deploy.method": "afd",
    "deploy.max_drop": 100.0,
    "quantize.images": 8,
    "benchmark.batch_sizes": [1],
    "benchmark.cold_starts": 0,
    "benchmark.loadgen": None,
}


ORDER = """
from dvc.repo import Repo
import networkx
for stage in reversed(list(networkx.topological_sort(Repo().index.graph))):
    print(">", stage.cmd)
"""


def commands(folder: Path) -> list[str]:
    """What `dvc repro` runs there, dependencies first."""
    said = toy.run(folder, "python", "-c", ORDER)
    return [line.removeprefix("> ") for line in said.splitlines() if line.startswith("> ")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = toy.make(tmp_path_factory.mktemp("stanford40") / "pupil", CHAIN)
    photographs.stanford40(folder / "stanford40", train=8, test=4, short_px=(24, 60), annotations=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in commands(folder):
            python, option, module, *arguments = shlex.split(command)
            assert (python, option) == ("python", "-m")
            patch.setattr(sys, "argv", [module, *arguments])
            _run.main(getattr(importlib.import_module(module), module.removeprefix("stages.")))
    return folder


@pytest.mark.slow
def test_the_lists_of_the_data_set_make_the_splits(finished: Path) -> None:
    card = json.loads((finished / "data/prepared/card.json").read_text(encoding="utf-8"))
    assert card["labels"] == ["blowing_bubbles", "gardening", "taking_photos"]
    assert card["counts"] == {"train": 21, "val": 3, "test": 12}
    assert (card["storage_px"], card["image_px"]) == (32, 24)
    audit = json.loads((finished / "data/prepared/audit.json").read_text(encoding="utf-8"))
    assert audit["splits"]["test"]["images"] == 12
    assert not any(audit["counts"][kind] for kind in ("missing", "unreadable", "duplicate", "leak"))


@pytest.mark.slow
def test_every_student_ends_in_the_report(finished: Path) -> None:
    results = json.loads((finished / "report/results.json").read_text(encoding="utf-8"))
    assert [network["name"] for network in results["methods"]] == ["vanilla", "afd"]
    assert results["deployed"]["images"] == 12
    page = (finished / "report/report.html").read_text(encoding="utf-8")
    assert "blowing_bubbles" in page
