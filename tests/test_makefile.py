"""`make repro` and git: a lock that somebody committed is theirs, wherever the project lies."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")


@pytest.mark.parametrize("place", [".", "below/project"])
@pytest.mark.parametrize(
    ("lock", "hidden"), [("schema: '2.0'\nstages:\n  prepare: {}\n", False), ("schema: '2.0'\n", True)]
)
def test_a_committed_lock_stays_visible_and_an_empty_one_is_hidden(
    place: str, lock: str, hidden: bool, tmp_path: Path
) -> None:
    project = tmp_path / place
    (project / ".venv/bin").mkdir(parents=True)
    (project / ".venv/uv/bin").mkdir(parents=True)
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, project)
    for name in (".venv/uv/bin/uv", ".venv/installed"):
        (project / name).touch()
    (project / ".venv/bin/dvc").write_text("#!/bin/sh\necho dvc $@\n")
    (project / ".venv/bin/dvc").chmod(0o755)
    (project / "dvc.lock").write_text(lock)

    def run(*command: str) -> str:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        return subprocess.run(command, cwd=project, env=clean, capture_output=True, text=True, check=True).stdout

    run("git", "init", "-q", str(tmp_path))
    run("git", "add", "dvc.lock")
    run("git", "-c", "user.name=Toy", "-c", "user.email=toy@example.org", "commit", "-q", "-m", "Toy")
    assert "dvc repro" in run("make", "repro")
    assert "no_scm" not in run("make", "repro")
    assert run("git", "ls-files", "-v", "dvc.lock").startswith("S" if hidden else "H")
