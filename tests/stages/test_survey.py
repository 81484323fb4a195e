"""The command that surveys students before a teacher is trained, but for exports and clocks."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.choosing import candidates
from pipeline.settings import params as parameters
from pipeline.system.errors import ParamsError, StoppedError
from serve.timing import benchmark
from stages import _run, _survey_files
from stages.survey import survey
from tests import tiny, toy
from tests.choosing import surveyed


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(toy.ROOT / "params.yaml", tmp_path)
    surveyed.replace_exports(monkeypatch)
    monkeypatch.setattr(_survey_files, "measure", surveyed.measure)
    monkeypatch.setattr(benchmark, "busy", lambda: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_marks_what_fits_and_chooses_the_largest(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = "resnet8,resnet14,wrn_10_1,mobilenet_v2_half"
    survey(names, budget_speedup=2, budget_mb=0.4, choose=True)
    said = capsys.readouterr()
    assert [line.split(":")[0] for line in said.err.splitlines()] == [
        "[1/4] resnet8",
        "[2/4] resnet14",
        "[3/4] wrn_10_1",
        "[4/4] mobilenet_v2_half",
    ]
    *_, verdict, changed = said.out.splitlines()
    assert verdict == "2 of 4 candidates fit --budget-speedup 2 --budget-mb 0.4: resnet8, wrn_10_1."
    assert changed == "params.yaml: student.arch already says resnet8"
    found = json.loads((project / "report/survey/survey.json").read_text())
    assert {row["name"]: row["fits"] for row in found["candidates"]} == {
        "resnet8": "float32",
        "resnet14": "int8",
        "wrn_10_1": "float32",
        "mobilenet_v2_half": None,
    }
    assert (found["budget"], found["teacher"]["name"]) == ({"speedup": 2, "mb": 0.4}, "resnet20")
    assert (project / "report/survey/survey.svg").read_text().startswith("<?xml")
    # Another budget needs no measurement.
    survey(names, budget_ms=1.0, choose=True)
    again = capsys.readouterr()
    assert "holds 4 candidates, which are not measured again" in again.err
    assert again.out.splitlines()[-1] == "params.yaml: student.arch: resnet8 -> resnet14"
    assert parameters.load(project / "params.yaml").student.arch == "resnet14"


def test_a_cut_student_can_be_chosen(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "SHARES", (0.5,))
    survey("pruned", budget_speedup=2.5, choose=True)
    assert "student.arch: resnet8 -> pruned" in capsys.readouterr().out
    student = parameters.load(project / "params.yaml").student
    assert student.pruned is not None
    assert (student.pruned.share_of_macs, student.pruned.round_to) == (0.5, 16)


def test_it_counts_the_classes_of_prepared_data(project: Path) -> None:
    (project / "data/prepared").mkdir(parents=True)
    (project / "data/prepared/card.json").write_text(tiny.card(classes=7).model_dump_json())
    survey("resnet8")
    assert json.loads(Path("report/survey/survey.json").read_text())["measured_with"]["teacher"]["num_classes"] == 7


def test_ctrl_c_keeps_what_was_measured(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(files: Mapping[str, Path], **where: Any) -> dict[str, Any]:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append("")
        return surveyed.measure(files)

    measured: list[str] = []
    monkeypatch.setattr(_survey_files, "measure", measure)
    with pytest.raises(StoppedError, match=r"stopped, with 1 candidates measured\. The same"):
        survey("resnet8,resnet14")
    assert [row["name"] for row in json.loads(Path("report/survey/survey.json").read_text())["candidates"]] == [
        "resnet8"
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"candidates": "resnet9000"}, r"--candidates: there is no 'resnet9000'"),
        ({"choose": True}, "--choose needs a budget"),
        ({"budget_ms": -1.0}, "--budget-ms is -1: expected a number above 0"),
        ({"params": Path("none.yaml")}, r"none\.yaml: expected a readable YAML file"),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(arguments: dict[str, Any], said: str, project: Path) -> None:
    with pytest.raises(ParamsError, match=said):
        survey(**arguments)
    assert not (project / "report").exists()


def test_choosing_what_nothing_fits_changes_nothing(project: Path) -> None:
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(ParamsError, match=r"Nothing fits --budget-ms 1e-06\. The nearest is resnet8: .* Nothing was"):
        survey("resnet8,resnet14", budget_ms=1e-6, choose=True)
    assert (project / "params.yaml").read_bytes() == before


def test_a_flag_has_no_value(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["survey", "--candidates", "resnet14", "--budget-ms", "1", "--choose"])
    _run.main(survey)
    assert capsys.readouterr().out.endswith("params.yaml: student.arch: resnet8 -> resnet14\n")
