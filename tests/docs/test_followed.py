"""Every command that README and docs/ show runs: here, or in another test that is named here.

One project is taken along the tutorial, through the experiments and back, and then through the other pages: photographs
at 224 pixels, ResNet-34 to ResNet-18, everything else as small as it goes.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from pipeline.data import arrays
from pipeline.data import card as cards
from serve.http.app import create_app
from serve.model.classifier import OnnxClassifier
from tests import pages, photographs, tiny_onnx, toy
from tests.pages import TEXTS

TUTORIAL, EXPERIMENTS = "docs/tutorial.md", "docs/experiments.md"
APPLY = "python -m stages.apply_preset --preset photos.yaml"
ELSEWHERE = {
    r"(RAY_ADDRESS=\S+ )?make [\w./]+": ("docs/test_followed.py", "def test_make_knows_its_targets("),
    r"\. \.venv/bin/activate$": ("toy.py", "after activating the virtual environment"),
    r"python -m tests\.demo_page ": ("serve/http/test_page_in_browser.py", "from tests.demo_page import"),
    r"python -m stages\.convert ": ("stages/test_convert.py", "from stages.convert import convert"),
    r"python -m stages\.survey ": ("stages/test_survey.py", "from stages.survey import survey"),
    r"python -m stages\.import_weights ": ("stages/test_own_teacher.py", "_run.main(import_weights)"),
    r"torchrun ": ("stages/test_processes.py", '"torch.distributed.run"'),
}
"""Commands that are not run here: what runs them, or what they stand for, and words of it."""
OTHER_PAGES = {"docs/serving.md": ("docs/test_serving.py", "pages.follow(LINES")}
"""Pages that another test follows."""
SHORTER = {
    "benchmark artifacts/deploy/deployed.onnx artifacts/deploy/teacher.onnx": "benchmark tiny/1.onnx tiny/2.onnx",
    "--loadgen 5": "--loadgen 0.02",
    "--cold-starts 3": "--cold-starts 1",
}
"""What takes minutes with ResNets at 224 pixels, and what is run in its place."""

ONCE: dict[str, Any] = {"epochs": 1, "batch_size": 6, "lr": 0.01, "milestones": [0.5], "precision": "fp32"}
SMALL = {
    "teacher.train": ONCE,
    "distill.train": ONCE,
    "distill.methods": {"afd": {"kl_weight": 0.9, "attention_weight": 200.0}},
    "deploy.max_drop": 100.0,  # a refusal would try every node
    "quantize.images": 8,
    "benchmark.batch_sizes": [1],
    "benchmark.samples": 20,
    "benchmark.thread_counts": [1],
    "benchmark.cold_starts": 0,
    "benchmark.loadgen": None,
}


def lines(page: str) -> list[pages.Block]:
    """The commands of a page that are run here."""
    return [("sh", line) for line in pages.commands(TEXTS[page]) if not any(re.match(it, line) for it in ELSEWHERE)]


@pytest.mark.parametrize(("file", "words"), [*ELSEWHERE.values(), *OTHER_PAGES.values()])
def test_what_runs_elsewhere_does(file: str, words: str) -> None:
    assert words in (toy.ROOT / "tests" / file).read_text(encoding="utf-8")


def test_make_knows_its_targets() -> None:
    every = [command for text in TEXTS.values() for command in pages.commands(text)]
    targets = {match[1] for command in every if (match := re.search(r"\bmake ([\w./]+)", command))}
    assert {"repro", "test", "table"} <= targets
    # They run whole elsewhere; here only that nobody renamed one.
    subprocess.run(["make", "-n", *sorted(targets)], cwd=toy.ROOT, check=True, capture_output=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with photographs beside params.yaml, before anything ran."""
    folder = toy.make(tmp_path_factory.mktemp("docs") / "pupil", {})
    shutil.copytree(toy.ROOT / "presets", folder / "presets")
    photographs.class_folders(folder / "photos", {"train": 4, "val": 2, "test": 2})
    shutil.copy(folder / "photos/test/temple/000.jpg", folder / "picture.jpg")
    (folder / "tiny").mkdir()
    for number in (1, 2):
        tiny_onnx.write(folder / f"tiny/{number}.onnx", f"net{number}", image_px=32, num_classes=10, seed=number)
    (preset,) = [text for kind, text in pages.blocks(TEXTS[TUTORIAL]) if kind == "yaml"]
    (folder / "photos.yaml").write_text(preset.replace("path: photos", f"path: {folder}/photos"), encoding="utf-8")
    for key, value in (("user.name", "Toy"), ("user.email", "toy@example.org")):
        toy.run(folder, "git", "config", key, value)
    (folder / ".git/info/exclude").write_text("/photos/\n/picture.jpg\n/tiny/\n")
    toy.run(folder, "git", "add", "-A")
    toy.run(folder, "git", "commit", "-qm", "Photographs")
    toy.run(folder, "git", "update-index", "--skip-worktree", "dvc.lock")  # as `make repro` does
    return folder


@pytest.fixture(scope="module")
def said(project: Path) -> dict[str, dict[str, str]]:
    """What every command printed, by page. The tutorial's numbers become small once they are in params.yaml."""

    def shortened(text: str, _: int) -> str | None:
        shorter = text
        for long, short in SHORTER.items():
            shorter = shorter.replace(long, short)
        return None if shorter == text else pages.run(shorter, project, toy.at_once())

    def followed(some: list[pages.Block]) -> dict[str, str]:
        return pages.follow(some, project, toy.at_once(), shortened)

    tutorial = lines(TUTORIAL)
    small, turn = (tutorial.index(("sh", text)) + 1 for text in (APPLY, "dvc plots show"))
    found = {TUTORIAL: followed(tutorial[:small])}
    toy.edit(project, SMALL)
    found[TUTORIAL] |= followed(tutorial[small:turn])
    found[EXPERIMENTS] = followed(lines(EXPERIMENTS))
    found[TUTORIAL] |= followed(tutorial[turn:])
    # README comes last: its preset is another data set's.
    left = sorted(TEXTS.keys() - found.keys() - OTHER_PAGES.keys(), key=lambda page: (page == "README.md", page))
    return found | {page: followed(lines(page)) for page in left}


@pytest.mark.slow
def test_the_tutorial_leads_to_a_server_that_knows_the_images(said: dict[str, dict[str, str]], project: Path) -> None:
    tutorial = said[TUTORIAL]
    assert "data.source: digit_pairs -> folder" in tutorial[APPLY]
    (answer,) = [json.loads(text) for command, text in tutorial.items() if command.startswith("curl")]
    assert {entry["label"] for entry in answer["top"]} == set(photographs.CLASSES)
    for who, arch in (("teacher", "resnet34"), ("students/afd/0", "resnet18")):
        assert json.loads((project / f"artifacts/{who}/evaluation.json").read_text(encoding="utf-8"))["arch"] == arch
    assert (project / "report/report.html").is_file()
    assert (project / "models/student/1/model.onnx").is_file()
    card = (project / "handed/README.md").read_text(encoding="utf-8")
    assert 'pipeline_tag: "image-classification"' in card
    assert "ms for 1 image |" in card


@pytest.mark.slow
@pytest.mark.usefixtures("said")
def test_images_are_stored_larger_than_networks_see_them(project: Path) -> None:
    card = cards.load(project / "data/prepared")
    assert (card.storage_px, card.image_px, card.counts) == (256, 224, {"train": 12, "val": 6, "test": 6})
    for name in ("student", "teacher"):
        onnx = OnnxClassifier(project / f"artifacts/deploy/{name}.onnx").card
        assert (onnx.resize_px, onnx.image_px, onnx.labels) == (256, 224, card.labels)


@pytest.mark.slow
@pytest.mark.usefixtures("said")
def test_what_is_served_is_what_was_evaluated(project: Path) -> None:
    """From an upload of a test photograph to the very answer of evaluation, and so to its top-1."""
    card = cards.load(project / "data/prepared")
    test = arrays.Split.load(project / "data/prepared", "test", card)
    model = OnnxClassifier(project / "artifacts/deploy/student.onnx")
    expected = model(test.central_reader()(np.arange(len(test))))
    files = sorted((project / "photos/test").rglob("*.*"))
    came = {}
    with TestClient(create_app({"student": model})) as client:
        for path in files:
            headers = {"Content-Type": "image/*"}
            top = client.post("/classify?top=3", content=path.read_bytes(), headers=headers).json()["top"]
            came[path.parent.name, path.name] = {answer["label"]: answer["probability"] for answer in top}
    wanted = [dict(zip(card.labels, row, strict=True)) for row in expected.tolist()]
    for (label, _), answer in came.items():
        near = [other for other in wanted if answer == pytest.approx(other, rel=1e-3, abs=1e-5)]
        assert near, label
    evaluation = json.loads((project / "artifacts/students/afd/0/evaluation.json").read_text())
    right = [label == max(answer, key=lambda name: answer[name]) for (label, _), answer in came.items()]
    assert 100 * np.mean(right) == pytest.approx(evaluation["test"]["top1"])


@pytest.mark.slow
def test_experiments_run_compare_and_travel(said: dict[str, dict[str, str]], project: Path) -> None:
    page = said[EXPERIMENTS]
    heavier, chosen = (
        next(text for command, text in page.items() if command.startswith(f"dvc exp run -n {name} "))
        for name in ("heavier", "chosen")
    )
    assert "Running stage 'distill@afd-0'" in heavier
    assert "Running stage 'train_teacher'" not in heavier
    assert re.findall(r"^params.yaml +(\S+) +200.0 +400$", page["dvc params diff"], re.M) == [
        "distill.methods.afd.attention_weight"
    ]
    assert len(page["dvc params diff"].splitlines()) == 2
    assert "val.nll" in page["dvc metrics diff"]
    assert page["dvc queue status"].count("Success") == 1
    assert "distill@afd-0" in page["dvc queue logs lighter"]
    table = page["dvc exp show --only-changed --drop '(.*:)?train\\..*'"]
    assert all(name in table for name in ("heavier", "lighter"))
    assert "!" not in table, "an experiment has lost its metrics"
    # What is chosen is deployed without another training; where it is pulled to, nothing is left to do.
    assert re.search(r"Stage 'distill@afd-0' (is cached|didn't change)", chosen)
    assert "Running stage 'evaluate@afd-0'" in chosen
    assert page["git status --short"] == ""
    compared = page["python -m stages.frontier --budget-ms 20"]
    (row,) = re.findall(r"^(.*?)  +afd 0 (?:int8|fp32) ", compared, re.MULTILINE)
    assert "chosen" in row, "the folder, the commit and the experiment hold one measurement"
    for name in ("heavier", "lighter"):
        missing = f"^Left out: {name}: has no .*latency.json; stages to run: .*benchmark"
        assert re.search(missing, compared, re.MULTILINE), compared
    assert (project / "report/frontier/frontier.png").is_file()
    there = page["cd ../pupil-elsewhere && dvc repro"]
    assert re.findall(r"^Running stage '(.+)':$", there, re.MULTILINE) == ["preflight"]
    here, elsewhere = (folder / "report/report.html" for folder in (project, project.parent / "pupil-elsewhere"))
    assert elsewhere.read_bytes() == here.read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("said")
def test_plots_have_the_titles_that_dvc_yaml_gives_them(project: Path) -> None:
    # Of the state after the tutorial: experiments draw before there is a benchmark.
    toy.run(project, "python", "-m", "dvc", "plots", "show")
    drawn = (project / "dvc_plots/index.html").read_text(encoding="utf-8")
    text = (
        (project / "dvc.yaml").read_text(encoding="utf-8").replace("${item.method}", "afd").replace("${item.seed}", "0")
    )
    titles = re.findall(r"^(?:  - | +.*\btitle: )\"([^\"\n]+)\"", text, re.MULTILINE)
    assert len(titles) >= 5
    assert [title for title in titles if title not in drawn] == []
