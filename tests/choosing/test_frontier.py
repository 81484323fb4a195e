"""Which experiments become points, who leads, what a budget allows; experiments as `dvc exp show --json` has them."""

import copy
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.choosing import frontier
from pipeline.choosing.budget import Budget
from pipeline.choosing.experiments import Found, Read, find
from pipeline.choosing.frontier import AXES
from pipeline.choosing.frontier_plot import draw
from pipeline.choosing.points import Places, Student, Teacher
from pipeline.report.artefacts.measured import Ratio
from pipeline.system.errors import ParamsError, PupilError
from stages import frontier as stage
from tests.report_run import Run

MS, SPEEDUP, MB = AXES
LATENCY, QUANTIZATION = "artifacts/deploy/latency.json", "artifacts/deploy/quantization.json"
DEPLOYED = "artifacts/deploy/deployed.json"
CHOSEN, TAUGHT, CARD = "artifacts/chosen/student.json", "artifacts/teacher/evaluation.json", "data/prepared/card.json"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a finished run left, by path; the student ships in int8, timed at batches of 1 and 32."""
    root = Run(tmp_path_factory.mktemp("run")).root
    of_run = LATENCY, QUANTIZATION, DEPLOYED
    found = {path: json.loads((root / path.removeprefix("artifacts/")).read_text()) for path in of_run}
    found[CHOSEN] = {"method": "kd", "seed": 1, "val_top1": 64.0, "of_methods": 1, "of_seeds": 1}
    found[TAUGHT] = {"arch": "resnet20", "val": {"top1": 66.5}, "test": {"top1": 77.77}}
    card = json.loads((root / "data/card.json").read_text())
    return found | {CARD: card | {"sha256": {"val/images.npy": "ab" * 32}}}


class Recorded:
    """Experiments of one commit, in the shape of `dvc exp show --json`, and what each of them left."""

    def __init__(self, files: dict[str, Any]) -> None:
        self.files, self.left = files, dict[str, dict[str, Any]]()
        self.shown = [self.state("workspace") | {"experiments": None}, self.state("c0ffee" * 6) | {"experiments": []}]
        self.shown[1]["name"] = "main"

    def state(self, rev: str, **changes: Any) -> dict[str, Any]:
        """A finished run whose latency.json is its own, unless `changes` says what it left."""
        own = copy.deepcopy(self.files)
        own[LATENCY]["load_average"] = [float(len(self.left))]
        self.left[rev] = own | changes
        outs = dict.fromkeys(
            (
                "artifacts/teacher/model.safetensors",
                "artifacts/chosen/model.safetensors",
                LATENCY,
                QUANTIZATION,
                DEPLOYED,
            ),
            "aa",
        )
        outs |= dict.fromkeys(
            (f"artifacts/deploy/{name}" for name in ("student.onnx", "teacher.onnx", "quantized")), "bb"
        )
        outs |= {"artifacts/students/kd/1/model.safetensors": "aa", "data/prepared": "dd.dir"}
        deps = {path: value for path, value in outs.items() if "json" not in path and "students" not in path}
        facts = {"size": 1, "nfiles": None}
        data = {
            "rev": rev,
            "timestamp": None,
            "params": {},
            "metrics": {path: {"data": self.left[rev][path]} for path in (CHOSEN, TAUGHT)},
            "deps": {path: {"hash": value, **facts} for path, value in deps.items()},
            "outs": {
                path: {"hash": value, **facts, "use_cache": True, "is_data_source": False}
                for path, value in outs.items()
            },
            "meta": {},
        }
        return {"rev": rev, "name": None, "data": data, "error": None}

    def add(self, name: str, executor: str | None = None, **changes: Any) -> dict[str, Any]:
        """One more experiment; returns its state, to be changed."""
        tip = self.state(f"{name}-sha", **changes) | {"name": name, "experiments": None}
        ran = executor and {"state": executor, "name": "dvc-task", "local": None}
        self.shown[1]["experiments"].append({"revs": [tip], "executor": ran, "name": name})
        return tip

    def read(self, revision: str, path: str) -> str | None:
        value = self.left[revision].get(path)
        return None if value is None else json.dumps(value)

    def find(self) -> Found:
        return find(self.shown, self.read, Places("artifacts", "data/prepared"))


@pytest.fixture
def recorded(files: dict[str, Any]) -> Recorded:
    return Recorded(files)


def student(name: str, val_top1: float, ms: float, speedup: float = 2.0, size: int = 100_000) -> Student:
    """Another one of those that `find` returns."""
    ratio = Ratio(median=speedup, low=speedup - 0.1, high=speedup + 0.1)
    interval = (val_top1 - 1, min(100.0, val_top1 + 1))
    teacher = Teacher("resnet20", 95.0, ms * speedup, 1_000_000)
    return Student((name,), "kd", 0, "int8", val_top1, interval, ms, ratio, size, "cpu", "ab", teacher)


def test_a_finished_experiment_is_a_point_of_the_file_that_ships(recorded: Recorded) -> None:
    recorded.add("heavier", "success")
    students, left_out = recorded.find()
    assert left_out == []
    assert [it.title for it in students] == ["workspace", "main", "heavier"]
    it = students[2]
    assert (it.method, it.seed, it.number_format, it.val_top1, it.size_bytes) == ("kd", 1, "int8", 63.75, 90_000)
    # At batch 1, though batch 32 stands first; the ratio is that of the same run.
    assert (it.p50_ms, it.times_as_fast.median, it.times_as_fast.low) == (0.25, 4.0, 3.9)
    # 13 of 21 images.
    assert it.val_interval == pytest.approx((40.9, 79.2), abs=0.1)
    assert it.machine == "Fast & Co <9000>, 1 thread"
    assert it.teacher == ("resnet20", 66.5, 1.0, 1_200_000)


def test_experiments_that_share_a_measurement_are_one_student(recorded: Recorded) -> None:
    recorded.left["workspace"] = recorded.left["c0ffee" * 6]
    recorded.add("applied", **recorded.left["c0ffee" * 6])
    (it,), _ = recorded.find()
    assert it.names == ("workspace", "main", "applied")
    assert it.title == "main"


@pytest.mark.parametrize("executor", ["queued", "running", "failed"])
def test_what_dvc_has_not_finished_is_named(executor: str, recorded: Recorded) -> None:
    recorded.add("lighter", executor)
    students, (line,) = recorded.find()
    assert len(students) == 2
    assert line == f"lighter: {executor}, so nothing was measured (`dvc queue status`)."


def broken(state: dict[str, Any]) -> None:
    state |= {"data": None, "error": {"msg": "no such commit", "type": "SCMError"}}


def only_trained(state: dict[str, Any]) -> None:
    del state["data"]["outs"][LATENCY]
    del state["data"]["outs"][DEPLOYED]
    state["data"]["outs"][QUANTIZATION]["hash"] = None
    state["data"]["metrics"][CHOSEN] = {"error": {"type": "FileNotFoundError"}}


def trained_anew(state: dict[str, Any]) -> None:
    state["data"]["outs"]["artifacts/students/kd/1/model.safetensors"]["hash"] = "cc"


def exported_anew(state: dict[str, Any]) -> None:
    state["data"]["outs"]["artifacts/deploy/student.onnx"]["hash"] = "cc"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (broken, r"DVC cannot read it \(no such commit\)"),
        (
            only_trained,
            rf"has no {CHOSEN}, {QUANTIZATION}, {DEPLOYED}, {LATENCY}; "
            "stages to run: choose, quantize, ship, benchmark",
        ),
        (trained_anew, r"its latency is of an earlier artifacts/students/kd/1/model.safetensors; run the stages up to"),
        (exported_anew, r"its latency is of an earlier artifacts/deploy/student.onnx"),
    ],
)
def test_an_experiment_that_is_not_whole_is_named_with_what_is_missing(
    change: Any, said: str, recorded: Recorded
) -> None:
    change(recorded.add("heavier"))
    students, (line,) = recorded.find()
    assert len(students) == 2
    assert re.match(f"heavier: {said}", line), line


def test_files_that_do_not_suit_are_named(recorded: Recorded, files: dict[str, Any]) -> None:
    latency, card = files[LATENCY], files[CARD]
    for name, changes in {
        "gone": {LATENCY: None},
        "old": {LATENCY: {"batches": []}},
        "batches": {LATENCY: latency | {"batches": latency["batches"][:1]}},
        "seen": {CARD: card | {"train_includes_val": True}},
        "untimed": {DEPLOYED: files[DEPLOYED] | {"file": "quantized/other.onnx"}},
    }.items():
        recorded.add(name, **changes)
    students, left_out = recorded.find()
    assert len(students) == 2
    for line, said in zip(
        left_out,
        (
            "gone: DVC no longer has artifacts/deploy/latency.json; try `dvc fetch --all-commits`.",
            "old: its Latency is not of this version (machine: Field required).",
            "batches: was not timed with one image a call; add 1 to benchmark.batch_sizes.",
            "seen: was trained on its validation images (data.train_includes_val).",
            "untimed: quantization.json has no test scores of quantized/other.onnx, which is deployed",
        ),
        strict=True,
    ):
        assert line.startswith(said)


def test_no_test_score_comes_out(recorded: Recorded) -> None:
    found = recorded.find()
    text = json.dumps(frontier.record(found, Budget())) + str(frontier.rows(found.students, Budget()))
    for score in ("77.77", "62.75"):
        assert score not in text


STUDENTS = [
    student("slow", 90.0, 2.0, speedup=1.5),
    student("fast", 80.0, 0.5, speedup=4.0),
    student("beaten", 79.0, 0.6, speedup=3.0, size=200_000),
    student("small", 70.0, 0.6, speedup=3.5, size=10_000),
    student("as fast", 75.0, 0.5, speedup=4.5),
]


def test_the_front_holds_those_that_none_beats() -> None:
    names = {axis.key: [it.title for it in frontier.front(STUDENTS, axis)] for axis in AXES}
    assert names == {"ms": ["fast", "slow"], "speedup": ["slow", "fast", "as fast"], "mb": ["small", "slow"]}
    twins = [student("one", 80.0, 1.0), student("other", 80.0, 1.0)]
    assert frontier.front(twins, MS) == twins


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (Budget(), "slow"),
        (Budget(ms=2.0), "slow"),
        (Budget(ms=1.0), "fast"),
        (Budget(ms=1.0, mb=0.05), "small"),
        (Budget(speedup=4.2), "as fast"),
        (Budget(speedup=9.0), None),
    ],
)
def test_the_most_accurate_student_within_a_budget(budget: Budget, expected: str | None) -> None:
    one = frontier.best(STUDENTS, budget)
    assert (one and one.title) == expected
    assert frontier.record(Found(STUDENTS, []), budget)["best"] == expected
    (*_, last) = frontier.notes(Found(STUDENTS, []), budget)
    if budget != Budget():
        assert last.startswith(
            "No student keeps the budget" if expected is None else f"Within the budget, {expected} ("
        )


def test_what_does_not_compare_is_said() -> None:
    other = Student(**vars(student("far", 99.0, 0.1)) | {"machine": "gpu", "val_images": "cd"})
    text = " ".join(frontier.notes(Found([*STUDENTS, other], ["why"]), Budget()))
    assert "Measured on 2 machines, so compare no milliseconds: cpu; gpu." in text
    assert "There are 2 sets of validation images" in text
    assert text.endswith("Left out: why")
    assert "machines" not in " ".join(frontier.notes(Found(STUDENTS, []), Budget()))


def test_the_picture_shows_what_it_is_given_and_repeats() -> None:
    png = draw(STUDENTS, Budget(ms=1.0, speedup=2.0))
    assert draw(STUDENTS, Budget(ms=1.0, speedup=2.0)) == png
    assert draw(STUDENTS, Budget()) != png
    assert Image.open(io.BytesIO(png)).width == 2250
    draw(STUDENTS[:1], Budget(mb=0.001))


def test_the_command_prints_a_table_and_writes_both_files(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded.add("lighter", "queued")

    @contextmanager
    def experiments() -> Iterator[tuple[list[dict[str, Any]], Read]]:
        yield recorded.shown, recorded.read

    monkeypatch.setattr(stage, "experiments", experiments)
    stage.frontier(out=tmp_path / "out", budget_ms=0.3)
    lines = capsys.readouterr().out.splitlines()
    assert re.match(
        r"experiment +student +val top-1 % \[95 %\] +ms a call +times as fast \[95 %\] +MB +leads by +in budget",
        lines[0],
    )
    assert re.match(
        r"main +kd 1 int8 +63.75 \[40.9, 79.2\] +0.250 +4.00 \[3.90, 4.10\] +0.09 +ms, speedup, mb +yes$", lines[2]
    )
    assert re.match(r"teacher +resnet20 +66.50 +1.000 +1 +1.20 +- +-$", lines[3])
    assert any(line.startswith("Left out: lighter: queued") for line in lines)
    assert "Within the budget, workspace (kd, int8) is the most accurate: 63.75 % on validation" in "\n".join(lines)
    assert json.loads((tmp_path / "out/frontier.json").read_text())["budget"] == {
        "ms": 0.3,
        "speedup": None,
        "mb": None,
    }
    assert (tmp_path / "out/frontier.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ParamsError, match=r"--budget-mb is -1: expected a number above 0"):
        stage.frontier(out=tmp_path, budget_mb=-1)
    recorded.shown = recorded.shown[1:]
    only_trained(recorded.shown[0])
    with pytest.raises(PupilError, match=r"(?s)No experiment has a student .* Run `dvc repro`.*main: has no .*lighter"):
        stage.frontier(out=tmp_path)
