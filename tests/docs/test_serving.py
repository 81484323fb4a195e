"""Every command and example of docs/serving.md runs, from the top of the page to its end, against a real server."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from benchmarks.serving import ROOT
from serve.http import metrics
from tests import pages, tiny_onnx

PAGE = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
LOAD = "python -m serve load"
# The installation is serve/test_alone.py's.
LINES = [(kind, text) for kind, text in pages.blocks(PAGE) if kind in ("sh", "python") and "serve-env" not in text]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models where the pipeline writes them."""
    folder = tmp_path_factory.mktemp("docs")
    deploy = folder / "artifacts/deploy"
    deploy.mkdir(parents=True)
    tiny_onnx.write(deploy / "deployed.onnx", image_px=32, num_classes=10)
    tiny_onnx.write(deploy / "teacher.onnx", "teacher", image_px=32, num_classes=10, seed=1)
    return folder


ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PUPIL_TOKEN"} | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
}


def begun(text: str, project: Path) -> str:
    """What a search prints until its first rate was tried, and that it can be interrupted: it would take minutes."""
    with subprocess.Popen(
        shlex.split(text), cwd=project, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as search:
        assert search.stdout is not None
        said = "".join(search.stdout.readline() for _ in range(3))
        search.send_signal(signal.SIGINT)
        search.communicate(timeout=60)
    assert search.returncode == 1
    return said


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_the_page_can_be_followed_from_top_to_end(project: Path) -> None:
    def shorter(text: str, pid: int) -> str | None:
        if not text.startswith(LOAD):
            return None
        if "--rate" not in text:
            return begun(text, project)
        # Ten minutes, and an idle machine, are too much to ask of a test.
        text = re.sub(r"--duration \d+", "--duration 4 --bound-ms 20000", text)
        return pages.run(re.sub(r"\$\(pgrep [^)]*\)", str(pid), text), project, ENVIRONMENT)

    assert LINES[0][1].startswith(pages.SERVE), "the page uses a server before it starts one"
    said = pages.follow(LINES, project, ENVIRONMENT, shorter)
    in_json, in_binary = (said[text] for _, text in LINES if "/infer" in text and "curl" in text)
    assert '"probabilities"' in in_json
    assert '"probabilities"' in in_binary
    (program,) = [text for kind, text in LINES if kind == "python"]
    assert len(set(said[program].splitlines())) == 1, "JSON and binary tensors answer differently"
    assert len(said[program].splitlines()) == 2
    loads = [said[text] for text in said if text.startswith(LOAD)]
    assert all("arrivals/s" in each for each in loads)
    assert (project / "load.json").exists()
    assert (project / "models/teacher/1/model.onnx").exists()
    assert (project / "pupil.yaml").exists()


def test_options_and_metrics_that_the_page_names_exist() -> None:
    known = ""
    for command in ("run", "load", "package"):
        known += subprocess.run(
            [sys.executable, "-m", "serve", command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
    foreign = {"--require-hashes", "--fail", "--data-binary", "--model-repository", "--out"}
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)) - foreign:
        assert re.search(rf"{option}\b", known), option
    text = metrics.Metrics().text().decode()
    for name in re.findall(r"`(pupil_\w+)`", PAGE):
        assert name == "pupil_card" or f"# HELP {name.removesuffix('_total')}" in text, name
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    assert any(requirement.startswith("tritonclient[http]") for requirement in groups["dev"])
