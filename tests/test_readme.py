"""The commands that README shows do run, in the toy project."""

import json
import re
import shlex
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests import toy

README = (toy.ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
MAKE = [command for command in COMMANDS if command.startswith("make ")]
SERVE = [command for command in COMMANDS if command.startswith("python -m serve run")]
OTHERS = [command for command in COMMANDS if command not in MAKE + SERVE]


def test_readme_shows_commands_of_every_kind() -> None:
    assert MAKE
    assert len(SERVE) == 1
    assert len(OTHERS) >= 2


@pytest.mark.parametrize("command", MAKE)
def test_make_knows_its_targets(command: str) -> None:
    # They run whole elsewhere; here only that nobody renamed a target.
    subprocess.run(["make", "-n", command.split()[1]], cwd=toy.ROOT, check=True, capture_output=True)


def test_the_tree_names_what_is_there() -> None:
    tree = README.split("```\nparams.yaml")[1].split("```")[0]
    for name in re.findall(r"\b(\w+)/", tree):
        assert (toy.ROOT / name).is_dir(), name
    assert all((toy.ROOT / link).exists() for link in re.findall(r"\]\(([^)#:]+)\)", README))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = toy.make(tmp_path_factory.mktemp("readme"))
    toy.repro(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", OTHERS)
def test_command_runs(command: str, project: Path) -> None:
    if "apply_preset" in command:
        (project / "presets").mkdir(exist_ok=True)
        for preset in (toy.ROOT / "presets").glob("*.yaml"):
            (project / "presets" / preset.name).write_bytes(preset.read_bytes())
    assert toy.run(project, *shlex.split(command))


@pytest.mark.slow
@pytest.mark.parametrize("command", SERVE)
def test_the_server_answers_and_stops(command: str, project: Path) -> None:
    with subprocess.Popen(
        [*shlex.split(command), "--port", "0"],
        cwd=project,
        env=toy.environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        try:
            said = server.stdout.readline()
            address = re.search(r"http://127\.0\.0\.1:\d+", said)
            assert address, said
            body = {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 16, 16, 3], "data": [7] * 768}]}
            request = urllib.request.Request(
                f"{address[0]}/v2/models/student/infer", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            # The socket listens before the line is printed: an early request waits, it is not refused.
            with urllib.request.urlopen(request, timeout=30) as answer:
                outputs = {o["name"]: o["data"] for o in json.load(answer)["outputs"]}
            assert sum(outputs["probabilities"]) == pytest.approx(1, abs=1e-5)
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=30)
        assert server.returncode == 0
