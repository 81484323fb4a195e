"""No page can go stale unseen: commands run, links and names resolve, what is made from the code is current.

One project is taken along the tutorial, through the experiments, and back: photographs at 224 pixels, ResNet-34 to
ResNet-18, everything else as small as it goes.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline import params, reference
from stages.reference import reference as write_reference
from tests import pages, photographs, toy

DOCS = toy.ROOT / "docs"
TEXTS = {page.relative_to(toy.ROOT).as_posix(): page.read_text(encoding="utf-8") for page in pages.PAGES}
MADE = ("docs/params.md", "docs/methods.md", "params.schema.json")

ELSEWHERE = {
    r"(RAY_ADDRESS=\S+ )?make [\w./]+": ("test_docs.py", "test_make_knows_its_targets"),
    r"\. \.venv/bin/activate$": ("toy.py", "after activating the virtual environment"),
    r"python -m tests\.demo_page ": ("test_demo_page.py", "from tests.demo_page import"),
    r"torchrun ": ("test_processes.py", '"torch.distributed.run"'),
}
"""Commands that are not run here: a test that runs them or what they name, and words of it."""
OTHER_PAGES = {"docs/serving.md": ("test_serving_docs.py", "pages.follow(LINES")}
"""Pages that another test follows."""
SHORTER = {
    r"serve benchmark": "serve benchmark --samples 20 --batch-sizes 1",
    r"--loadgen \d+": "--loadgen 0.02",
    r"--cold-starts \d+": "--cold-starts 1",
    r"--thread-counts [\d ]+": "--thread-counts 1 ",
}
"""What takes minutes at 224 pixels, and what is run in its place."""

SMALL = {
    "teacher.train.epochs": 1,
    "teacher.train.batch_size": 8,
    "distill.train.epochs": 1,
    "distill.train.batch_size": 8,
    "distill.methods": {"vanilla": {}, "afd": {"kl_weight": 0.9, "attention_weight": 200.0}},
    "deploy.max_drop": 100.0,
    "quantize.images": 4,
    "benchmark.batch_sizes": [1],
    "benchmark.samples": 20,
    "benchmark.warmup": 1,
    "benchmark.thread_counts": [1],
    "benchmark.cold_starts": 0,
    "benchmark.loadgen": None,
}


def runs_elsewhere(command: str) -> bool:
    return any(re.match(pattern, command) for pattern in ELSEWHERE)


def lines(page: str) -> list[pages.Block]:
    return [("sh", command) for command in pages.commands(TEXTS[page]) if not runs_elsewhere(command)]


@pytest.mark.parametrize(("file", "words"), [*ELSEWHERE.values(), *OTHER_PAGES.values()])
def test_what_runs_elsewhere_does(file: str, words: str) -> None:
    assert words in (toy.ROOT / "tests" / file).read_text(encoding="utf-8")


def test_make_knows_its_targets() -> None:
    every = [command for text in TEXTS.values() for command in pages.commands(text)]
    targets = {match[1] for command in every if (match := re.search(r"\bmake ([\w./]+)", command))}
    assert {"repro", "test", "table"} <= targets
    # They run whole elsewhere; here only that nobody renamed one.
    subprocess.run(["make", "-n", *sorted(targets)], cwd=toy.ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    folder = (toy.ROOT / page).parent
    for link in re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", TEXTS[page]):
        assert (folder / link).exists(), link


def test_every_page_is_in_the_index() -> None:
    linked = set(re.findall(r"\]\((\w[\w-]*\.md)\)", TEXTS["docs/README.md"]))
    assert linked == {path.name for path in DOCS.glob("*.md")} - {"README.md"}


@pytest.mark.parametrize("page", TEXTS)
def test_files_and_keys_that_a_page_names_exist(page: str) -> None:
    schema = params.json_schema()
    for name in re.findall(r"`([\w./-]+)`", TEXTS[page]):
        top, *rest = re.split(r"[./]", name)
        if top in ("pipeline", "stages", "serve", "tests", "benchmarks", "presets", "results", "docs"):
            assert "/" not in name or (toy.ROOT / name).exists(), name
        elif top in schema["properties"] and rest and "/" not in name and rest[-1] not in ("onnx", "yaml", "json"):
            assert known(schema, [top, *rest]), name


def known(schema: Any, keys: list[str]) -> bool:
    """Whether a dotted key is one of params.yaml."""
    section = schema
    for key in keys:
        options = [section, *section.get("anyOf", [])]
        (ref,) = [option["$ref"] for option in options if "$ref" in option] or [None]
        section = schema["$defs"][ref.rpartition("/")[2]] if ref else section
        if key not in section.get("properties", {}):
            return False
        section = section["properties"][key]
    return True


def test_what_is_made_from_the_code_is_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy.ROOT)
    write_reference(tmp_path)
    for name in MADE:
        assert (tmp_path / name).read_bytes() == (toy.ROOT / name).read_bytes(), f"{name} is stale: run `make docs`"


def test_every_key_of_params_is_explained() -> None:
    schema = params.json_schema()
    assert reference.undocumented(schema, schema) == []


def test_the_tree_of_readme_names_what_is_there() -> None:
    tree = TEXTS["README.md"].split("```\nparams.yaml")[1].split("```")[0]
    for name in re.findall(r"\b(\w+)/", tree):
        assert (toy.ROOT / name).is_dir(), name


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with photographs beside params.yaml, before anything ran."""
    folder = toy.make(tmp_path_factory.mktemp("docs") / "pupil", {})
    shutil.copytree(toy.ROOT / "presets", folder / "presets")
    photographs.class_folders(folder / "photos", {"train": 8, "test": 4}, short_px=(60, 300))
    shutil.copy(folder / "photos/test/temple/000.jpg", folder / "picture.jpg")
    (preset,) = [text for kind, text in pages.blocks(TEXTS["docs/tutorial.md"]) if kind == "yaml"]
    (folder / "photos.yaml").write_text(preset.replace("path: photos", f"path: {folder}/photos"), encoding="utf-8")
    for key, value in (("user.name", "Toy"), ("user.email", "toy@example.org")):
        toy.run(folder, "git", "config", key, value)
    (folder / ".git/info/exclude").write_text("/photos/\n/picture.jpg\n")
    toy.run(folder, "git", "add", "-A")
    toy.run(folder, "git", "commit", "-qm", "Photographs")
    toy.run(folder, "git", "update-index", "--skip-worktree", "dvc.lock")  # as `make repro` does
    return folder


@pytest.fixture(scope="module")
def said(project: Path) -> dict[str, dict[str, str]]:
    """What every command of every page printed, by page: the tutorial, which goes through the experiments, leads."""

    def shortened(text: str, _: int) -> str | None:
        shorter = text
        for long, short in SHORTER.items():
            shorter = re.sub(long, short, shorter)
        return None if shorter == text else pages.run(shorter, project, toy.environment())

    first = lines("docs/tutorial.md")
    begin, turn = (first.index(("sh", text)) + 1 for text in (APPLY, "dvc plots show"))
    found = {"begin": pages.follow(first[:begin], project, toy.environment())}
    toy.edit(project, SMALL)
    found["docs/tutorial.md"] = pages.follow(first[begin:turn], project, toy.environment())
    found["docs/experiments.md"] = pages.follow(lines("docs/experiments.md"), project, toy.environment())
    found["docs/tutorial.md"] |= pages.follow(first[turn:], project, toy.environment())
    for page in TEXTS:
        if page not in found and page not in OTHER_PAGES:
            found[page] = pages.follow(lines(page), project, toy.environment(), shortened)
    return found


APPLY = "python -m stages.apply_preset --preset photos.yaml"


@pytest.mark.slow
def test_the_tutorial_leads_to_a_server_that_knows_the_images(said: dict[str, dict[str, str]], project: Path) -> None:
    tutorial = said["docs/tutorial.md"]
    assert "data.source: digit_pairs -> folder" in said["begin"][APPLY]
    (answer,) = [json.loads(text) for command, text in tutorial.items() if command.startswith("curl")]
    assert {entry["label"] for entry in answer["top"]} == set(photographs.CLASSES)
    card = json.loads((project / "data/prepared/card.json").read_text(encoding="utf-8"))
    assert (card["image_px"], card["storage_px"]) == (224, 256)
    evaluations = {
        who: json.loads((project / f"artifacts/{who}/evaluation.json").read_text(encoding="utf-8"))
        for who in ("teacher", "students/vanilla/0", "students/afd/0")
    }
    assert [it["arch"] for it in evaluations.values()] == ["resnet34", "resnet18", "resnet18"]
    assert (project / "report/report.html").is_file()
    assert (project / "models/student/1/model.onnx").is_file()


@pytest.mark.slow
def test_experiments_run_compare_and_travel(said: dict[str, dict[str, str]], project: Path) -> None:
    page = said["docs/experiments.md"]
    heavier = next(text for command, text in page.items() if command.startswith("dvc exp run -n heavier"))
    assert "Running stage 'distill@afd-0'" in heavier
    assert "Running stage 'distill@vanilla-0'" not in heavier
    assert "attention_weight  200.0   400" in page["dvc params diff"]
    assert "val.nll" in page["dvc metrics diff"]
    assert page["dvc queue status"].count("Success") == 1
    assert "distill@afd-0" in page["dvc queue logs lighter"]
    table = page["dvc exp show --only-changed --drop '.*train.*'"]
    assert all(name in table for name in ("heavier", "lighter"))
    assert "!" not in table, "an experiment has lost its metrics"
    # What was chosen is deployed without another training; nothing but preflight runs where it was pulled to.
    chosen = next(text for command, text in page.items() if command.startswith("dvc exp run -n chosen"))
    assert "Stage 'distill@afd-0' is cached" in chosen or "Stage 'distill@afd-0' didn't change" in chosen
    assert "Running stage 'evaluate@afd-0'" in chosen
    assert page["git status --short"] == ""
    there = page["cd ../pupil-elsewhere && dvc repro"]
    assert re.findall(r"^Running stage '(.+)':$", there, re.MULTILINE) == ["preflight"]
    elsewhere = project.parent / "pupil-elsewhere"
    assert (elsewhere / "report/report.html").read_bytes() == (project / "report/report.html").read_bytes()


@pytest.mark.slow
def test_plots_have_titles_and_hold_every_network(said: dict[str, dict[str, str]], project: Path) -> None:
    assert "index.html" in said["docs/experiments.md"]["dvc plots show"]
    drawn = (project / "dvc_plots/index.html").read_text(encoding="utf-8")
    for title in re.findall(r"^  - \"(.*)\":$|^ +title: (.*)$", (project / "dvc.yaml").read_text(), re.MULTILINE):
        assert "".join(title) in drawn, title
