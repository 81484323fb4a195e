"""serve is installed and runs by itself: its lock, its image, and an environment with nothing else in it."""

import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from tests import tiny_onnx

ROOT = Path(__file__).parents[2]
LOCK, GPU_LOCK = ROOT / "requirements-serve.lock", ROOT / "requirements-serve-gpu.lock"
UV = ROOT / ".venv/uv/bin/uv"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def pins(path: Path) -> dict[str, set[str]]:
    """`name==version ; marker` -> its hashes."""
    pinned: dict[str, set[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if "==" in line and not line.startswith(("#", " ")):
            pinned[line.removesuffix(" \\")] = set()
        elif line.strip().startswith("--hash="):
            pinned[list(pinned)[-1]].add(line.strip().removesuffix(" \\"))
    return pinned


def wanted_by(path: Path) -> dict[str, set[str]]:
    """Name -> what it is there for, as the lock's comments say."""
    wanted: dict[str, set[str]] = {}
    name = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if "==" in line and not line.startswith(("#", " ")):
            name = line.partition("==")[0]
        elif name and line.strip().startswith("#"):
            reasons = line.strip().lstrip("# ").removeprefix("via").strip()
            wanted.setdefault(name, set()).update({reasons} - {""})
    return wanted


@pytest.mark.parametrize("lock", [LOCK, GPU_LOCK])
def test_a_lock_is_the_part_of_the_great_lock_that_serving_needs(lock: Path) -> None:
    small, great = pins(lock), pins(ROOT / "requirements.lock")
    versions = {line.partition(" ;")[0]: hashes for line, hashes in great.items()}
    for line, hashes in small.items():
        pinned = line.partition(" ;")[0]
        assert hashes, line
        assert hashes == versions.get(pinned), f"{pinned} differs from requirements.lock; run: make lock"
    assert not {"torch", "dvc", "onnx", "timm"} & {line.partition("==")[0] for line in small}


@pytest.mark.parametrize(("lock", "group"), [(LOCK, "serve"), (GPU_LOCK, "serve-gpu")])
def test_a_lock_holds_the_group_and_what_it_needs(lock: Path, group: str) -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    requirements = [requirement for requirement in groups[group] if isinstance(requirement, str)]
    names = {re.split(r"[\[<>=~!]", requirement)[0] for requirement in (*groups["serve-any"], *requirements)}
    wanted, own = wanted_by(lock), tuple(f":{each})" for each in (group, "serve-any"))
    of_group = {name for name, reasons in wanted.items() if any(reason.endswith(own) for reason in reasons)}
    assert of_group == names
    for name, reasons in wanted.items():
        assert any(reason.endswith(own) or reason in wanted for reason in reasons), f"{name} is there for nothing"


def test_the_image_copies_what_exists_and_installs_the_lock() -> None:
    lines = [line for line in DOCKERFILE.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    copied = [source for line in lines if line.startswith("COPY ") for source in shlex.split(line)[1:-1]]
    assert copied == [LOCK.name, GPU_LOCK.name, "LICENSE", "serve/"]
    assert all((ROOT / source).exists() for source in copied)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    # Everything is left out but these, so that the image cannot take in weights or secrets of the checkout.
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == {source.rstrip("/") for source in copied}
    installs = [line for line in lines if "install" in line]
    assert installs == ['RUN pip install --no-cache-dir --require-hashes -r "$LOCK"']
    assert f"ARG LOCK={LOCK.name}" in lines
    order = [line.split()[0] for line in lines]
    assert order.index("USER") < order.index("ENTRYPOINT")
    (user,) = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert int(user) > 0


def test_the_image_starts_the_server_that_there_is() -> None:
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)
    (command,) = re.findall(r"^CMD (.*)$", DOCKERFILE, re.MULTILINE)
    assert json.loads(entry)[:4] == ["python", "-m", "serve", "run"]
    assert json.loads(command) == ["/models/deployed.onnx"]


class Alone:
    """A folder with serve/ in it, and the Python of an environment made of the lock."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.python = folder, folder / "env/bin/python"

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [str(self.python), *command],
            cwd=self.folder,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """Installs as docs/serving.md says, but by uv for the sake of its cache."""
    alone = Alone(tmp_path_factory.mktemp("alone"))
    assert UV.exists(), f"{UV} is missing: `make` installs it."
    subprocess.run([UV, "venv", "-q", "--python", ROOT / ".venv/bin/python", alone.folder / "env"], check=True)
    page = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
    (options,) = re.findall(r"^serve-env/bin/pip install (.*)$", page, re.MULTILINE)
    install = [UV, "pip", "install", "-q", "--python", alone.python, *shlex.split(options)]
    for where in (["--offline"], []):  # from uv's cache, which made .venv, and only then from the network
        done = subprocess.run([*install, *where], cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
    else:
        # Not skipped: that serve runs alone would then stand unproven, and nobody would see it.
        pytest.fail(f"The packages of {LOCK.name} are neither in uv's cache nor to be had from here:\n{done.stderr}")
    shutil.copytree(ROOT / "serve", alone.folder / "serve", ignore=shutil.ignore_patterns("__pycache__"))
    return alone


@pytest.mark.slow
def test_help_is_shown_without_torch(alone: Alone) -> None:
    assert "{run," in alone.run("-m", "serve", "--help")
    script = "import importlib.util as u; print([n for n in ('torch', 'dvc', 'onnx', 'pipeline') if u.find_spec(n)])"
    assert alone.run("-c", script) == "[]\n"


@pytest.mark.slow
def test_a_server_answers_as_the_model_does(alone: Alone) -> None:
    path = tiny_onnx.write(alone.folder / "student.onnx")
    command = [str(alone.python), "-W", "error", "-m", "serve", "run", str(path), "--port", "0"]
    with subprocess.Popen(command, cwd=alone.folder, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            said = server.stdout.readline()
            address = re.search(r"http://127\.0\.0\.1:\d+", said)
            assert address, said
            pixels = np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)
            tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": pixels.ravel().tolist()}
            body = json.dumps({"inputs": [tensor]}).encode()
            with urllib.request.urlopen(f"{address[0]}/v2/models/student/infer", body, timeout=30) as answer:
                outputs = {output["name"]: output["data"] for output in json.load(answer)["outputs"]}
            (expected,) = tiny_onnx.expected_logits(pixels)
            assert outputs["logits"] == pytest.approx(expected, abs=1e-4)
        finally:
            server.terminate()
            server.communicate(timeout=60)
    files = alone.run("-m", "serve", "package", str(path), "--triton", "repository")
    assert "repository holds student" in files
