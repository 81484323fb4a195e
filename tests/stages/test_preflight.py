"""What preflight puts right and says, besides what it refuses."""

import shutil
from pathlib import Path

import pytest

from stages.preflight import preflight
from tests import toy

SMALL = toy.SMALL | {"distill.seeds": [0, 2]}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copy(toy.ROOT / "params.yaml", tmp_path)
    toy.edit(tmp_path, SMALL)
    return tmp_path


def test_students_that_are_not_listed_are_moved_aside_and_kept(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    students = project / "artifacts/students"
    for place in ("kd/0", "kd/1", "kd/2", "dkd/0", "vanilla/0"):
        (students / place).mkdir(parents=True)
        (students / place / "model.safetensors").write_text(place)
    earlier = project / "artifacts/students-not-listed/dkd/0"
    earlier.mkdir(parents=True)
    (earlier / "old").touch()
    for _ in range(2):
        preflight(project / "params.yaml", project / "artifacts/preflight")
    assert sorted(path.relative_to(students).as_posix() for path in students.glob("*/*")) == [
        "kd/0",
        "kd/2",
        "vanilla/0",
    ]
    assert not (students / "dkd").exists()
    moved = project / "artifacts/students-not-listed"
    for place in ("kd/1", "dkd/0"):
        assert [path.name for path in (moved / place).iterdir()] == ["model.safetensors"]
        assert (moved / place / "model.safetensors").read_text() == place
    said = capsys.readouterr()
    assert said.out.count("note: params.yaml does not list dkd/0; what lay in") == 1
    # Two epochs do not reach 0.75 of them, which the stages that train say no more.
    warning = "warning: {}.train has 2 epochs and never reaches these milestones: 0.75, 0.875"
    assert all(said.err.count(warning.format(section)) == 2 for section in ("teacher", "distill"))
