"""Which student ships: by validation alone, of the epoch that was kept, and handed on under one path."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluation.choice import Choice, choose
from pipeline.settings.deployment import Deploy
from pipeline.settings.networks import Distill
from pipeline.system.errors import PupilError
from pipeline.system.files import write_json
from stages.choose import HANDED_ON
from stages.choose import choose as stage

METHODS: dict[str, Any] = {"vanilla": {}, "kd": {}, "afd": {}}
DISTILL = Distill(methods=METHODS, seeds=(0, 1))
KEPT = {
    ("vanilla", 0): 50.0,
    ("vanilla", 1): 60.0,
    ("kd", 0): 71.0,
    ("kd", 1): 70.0,
    ("afd", 0): 65.0,
    ("afd", 1): 71.0,
}


@pytest.fixture
def students(tmp_path: Path) -> Path:
    """Each kept its second epoch; the others are better or worse. Test scores say the opposite of validation."""
    for (method, seed), top1 in KEPT.items():
        folder = tmp_path / "students" / method / str(seed)
        epochs = [{"epoch": number + 1, "val": {"top1": value}} for number, value in enumerate((99.0, top1, 1.0))]
        write_json(folder / "history.json", {"shipped_epoch": 2, "val_seen_in_training": False, "epochs": epochs})
        write_json(folder / "evaluation.json", {"test": {"top1": 100 - top1}})
        for name in HANDED_ON:
            if not (folder / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(f"{name} of {method} {seed}", encoding="utf-8")
    return tmp_path / "students"


@pytest.mark.parametrize(
    ("method", "seed", "expected"),
    [
        ("vanilla", 0, Choice("vanilla", 0, 50.0, 1, 1)),
        ("vanilla", "best", Choice("vanilla", 1, 60.0, 1, 2)),
        ("best", 0, Choice("kd", 0, 71.0, 3, 1)),
        # kd with seed 0 is as good: the smaller name.
        ("best", "best", Choice("afd", 1, 71.0, 3, 2)),
    ],
)
def test_validation_of_the_kept_epoch_chooses(method: str, seed: Any, expected: Choice, students: Path) -> None:
    assert choose(students, Deploy(method=method, seed=seed), DISTILL) == expected


def test_of_equal_students_the_first_by_name_and_then_by_seed_is_taken(students: Path) -> None:
    for place in ("vanilla/0", "vanilla/1", "kd/1"):
        (students / place / "history.json").write_bytes((students / "kd/0/history.json").read_bytes())
    distill = Distill(methods={"vanilla": {}, "kd": {}}, seeds=(1, 0))
    chosen = choose(students, Deploy(method="best", seed="best"), distill)
    assert (chosen.method, chosen.seed) == ("kd", 0)
    assert choose(students, Deploy(method="vanilla", seed="best"), distill).seed == 0


@pytest.mark.parametrize("text", [None, "{", "[]", '{"epochs": [], "shipped_epoch": 1, "val_seen_in_training": false}'])
def test_a_history_that_does_not_say_it_is_named_with_its_stage(text: str | None, students: Path) -> None:
    path = students / "kd/1/history.json"
    path.unlink() if text is None else path.write_text(text, encoding="utf-8")
    with pytest.raises(PupilError, match=r"kd/1/history\.json should say .* Run `dvc repro distill@kd-1`"):
        choose(students, Deploy(method="best", seed="best"), DISTILL)


def test_the_chosen_student_is_handed_on_whichever_it_is(
    students: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params, out = tmp_path / "params.yaml", tmp_path / "chosen"
    for deploy, name, why in (
        ({"method": "best", "seed": "best"}, "afd/1", "the best of 6 students on validation"),
        ({"method": "kd", "seed": 0}, "kd/0", "as params.yaml says"),
    ):
        write_json(params, {"distill": {"methods": METHODS, "seeds": [0, 1]}, "deploy": deploy})
        stage(params, students, out)
        assert json.loads((out / "student.json").read_text())["method"] == name.partition("/")[0]
        for file in HANDED_ON:
            assert (out / file).read_bytes() == (students / name / file).read_bytes()
        assert f"{name[:-2]} with seed {name[-1]}, {why}: validation top-1 71.00 %" in capsys.readouterr().out
    history = students / "kd/0/history.json"
    seen = json.loads(history.read_text()) | {"val_seen_in_training": True}
    history.write_text(json.dumps(seen))
    stage(params, students, out)
    assert json.loads((out / "student.json").read_text())["val_seen_in_training"]
    assert "as params.yaml says: validation (images seen in training) top-1 71.00 %" in capsys.readouterr().out
