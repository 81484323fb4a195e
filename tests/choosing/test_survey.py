"""The survey before training: its candidates, its rows, and that nothing is measured twice."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.choosing import candidates, survey_picture, survey_table
from pipeline.choosing import survey as surveys
from pipeline.choosing.budget import Budget
from pipeline.choosing.candidates import ALL, listed
from pipeline.choosing.survey_book import Book
from pipeline.deployment import trial
from pipeline.models import checkpoint, pruned
from pipeline.models.base import Classifier, num_parameters
from pipeline.models.checkpoint import Header
from pipeline.settings.params import Params
from pipeline.settings.reading import parse
from pipeline.system.errors import ParamsError, PupilError
from tests import tiny
from tests.choosing import surveyed

KEY = {"teacher": "resnet14"}
NO_BUDGET = Budget()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return surveyed.replace_exports(monkeypatch)


def settings(**sections: Any) -> Params:
    networks = {"teacher": {"arch": "resnet14"}, "student": {"arch": "resnet8"}}
    return parse(Params, {"data": {"image_px": 32}} | networks | sections, "", "params.yaml")


def survey(names: str, folder: Path, key: Any = KEY, **sections: Any) -> tuple[Book, list[str]]:
    """What the book then holds, and the lines that were said."""
    params, book, said = settings(**sections), Book(folder / "survey.json", key, NO_BUDGET), list[str]()
    teacher = surveys.teacher_of(params, folder)
    surveys.survey(params, teacher, listed(names), surveyed.measure, book, said.append)
    return book, said


def test_all_is_every_size_that_is_smaller_and_the_cuts() -> None:
    names = [candidate.name for candidate in listed(ALL)]
    assert {"resnet8", "resnet110", "wrn_16_2", "mobilenet_v2_half", "pruned 0.33 by 8"} <= set(names)
    assert not [name for name in names if name.startswith(("timm", "reused"))]
    assert [candidate.name for candidate in listed("resnet8, pruned,resnet8")][:2] == ["resnet8", "pruned 0.7 by 16"]


def test_wildcards_are_of_timm() -> None:
    assert [candidate.name for candidate in listed("timm/test_resnet*")] == ["timm/test_resnet"]
    assert [candidate.student for candidate in listed("timm/resnet18.a1_in1k")] == [{"arch": "timm/resnet18.a1_in1k"}]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("resnet21", r"--candidates: there is no 'resnet21' \(did you mean 'resnet32'\?\)"),
        ("resnit20", r"--candidates: arch 'resnit20': there is no 'resnit' \(did you mean 'resnet'\?\)"),
        ("resnet8,", "--candidates: "),
        ("resnet*", r"'resnet\*' has a wildcard, which only names of timm may have"),
        ("timm/mobilnetv9*", r"no network 'timm/mobilnetv9\*' \(did you mean 'timm/mobile"),
        ("timm/resnet19", r"there is no 'timm/resnet19' \(did you mean 'timm/resnet1"),
    ],
)
def test_a_name_that_nothing_has_is_refused_with_the_nearest(names: str, said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        listed(names)


def test_cuts_have_rows_of_their_own_and_the_impossible_are_named_once(
    tmp_path: Path, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "SHARES", (0.5, 0.45, 0.1))
    book, said = survey("pruned", tmp_path)
    rows = book.rows
    assert rows["pruned 0.5 by 8"]["student"] == {
        "arch": "pruned",
        "pruned": {"share_of_macs": 0.5, "cut": "channels", "round_to": 8},
    }
    assert book.teacher is not None
    for row in rows.values():
        assert row["macs"] <= row["student"]["pruned"]["share_of_macs"] * book.teacher["macs"]
        assert row["files"]["int8"]["bytes"] < row["files"]["float32"]["bytes"] == 4 * row["num_parameters"]
    sizes = [(row["macs"], row["num_parameters"]) for row in rows.values()]
    assert len(sizes) == len(set(sizes))
    assert "pruned 0.1 by 16" in book.left_out
    assert said[0].count("students cut by a multiple of 16 channels") == 1
    assert written == ["resnet14", *["pruned"] * len(rows)]


def test_a_teacher_that_cannot_be_cut_is_one_line(tmp_path: Path, written: list[str]) -> None:
    sections: dict[str, Any] = {"teacher": {"arch": "timm/test_vit"}, "data": {"image_px": 160}}
    book, said = survey("pruned", tmp_path, **sections)
    assert not book.rows
    (line,) = said
    assert line.startswith("left out: students cut from the teacher, because timm/test_vit cannot be pruned")


def test_refusals_are_listed_and_tried_anew_when_the_methods_change(tmp_path: Path, written: list[str]) -> None:
    methods: dict[str, Any] = {"methods": {"vanilla": {}, "sakd": {}}}
    book, _ = survey("resnet8,resnet18", tmp_path, distill=methods)
    assert list(book.rows["resnet18"]["refused"]) == ["sakd"]
    assert book.rows["resnet8"]["refused"] == {}
    before = len(written)
    again, _ = survey("resnet8,resnet18", tmp_path, distill={"methods": {"vanilla": {}}})
    assert again.rows["resnet18"]["refused"] == {}
    assert len(written) == before


def test_what_was_measured_is_not_measured_again(
    tmp_path: Path, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = trial.write

    def stopping(network: Classifier, image_px: int, opset: int, path: Path) -> Path:
        if network.spec["arch"] == "wrn_10_1":
            raise KeyboardInterrupt
        return counted(network, image_px, opset, path)

    monkeypatch.setattr(trial, "write", stopping)
    with pytest.raises(KeyboardInterrupt):
        survey("resnet8,wrn_10_1,mobilenet_v2_half", tmp_path)
    monkeypatch.setattr(trial, "write", counted)
    assert written == ["resnet14", "resnet8"]
    book, said = survey("resnet8,wrn_10_1,mobilenet_v2_half", tmp_path)
    assert written == ["resnet14", "resnet8", "resnet14", "wrn_10_1", "mobilenet_v2_half"]
    assert [line.split(":")[0] for line in said] == ["[2/3] wrn_10_1", "[3/3] mobilenet_v2_half"]
    assert list(book.rows) == ["resnet8", "wrn_10_1", "mobilenet_v2_half"]
    again, said = survey("resnet8,wrn_10_1,mobilenet_v2_half", tmp_path)
    assert (said, again.rows, len(written)) == ([], book.rows, 5)


def test_another_machine_measures_anew(tmp_path: Path, written: list[str]) -> None:
    survey("resnet8", tmp_path)
    survey("resnet8", tmp_path, key=KEY | {"machine": "another"})
    assert written == ["resnet14", "resnet8"] * 2
    book = Book(tmp_path / "survey.json", KEY, NO_BUDGET)
    assert str(book.again()).endswith("was measured with another machine: everything is measured anew")


@pytest.mark.parametrize("text", ["{", "[]", '{"measured_with": {}, "teacher": null, "candidates": [3]}'])
def test_a_file_that_is_no_survey_is_left_alone(text: str, tmp_path: Path) -> None:
    (tmp_path / "survey.json").write_text(text)
    with pytest.raises(PupilError, match=r"survey\.json is not what a survey wrote .* Remove it, or name another"):
        Book(tmp_path / "survey.json", KEY, NO_BUDGET)


def test_what_cannot_be_measured_has_a_row_that_says_why(
    tmp_path: Path, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_int8(float32: Path, path: Path) -> Path:
        raise ValueError("no such operator\nand more")

    monkeypatch.setattr(trial, "write_int8", no_int8)
    book, _ = survey("timm/inception_v3,resnet8", tmp_path)
    assert book.teacher is not None
    rows = list(book.rows.values())
    assert rows[0]["error"].startswith("timm/inception_v3 cannot take images of 32 x 32 px")
    assert (rows[1]["files"]["int8"], rows[1]["int8_error"]) == (None, "ValueError: no such operator")
    text = survey_table.text(book.teacher, rows, NO_BUDGET)
    assert "timm/inception_v3 was not measured: timm/inception_v3 cannot take" in text
    assert "resnet8 has no int8 file: ValueError: no such operator" in text
    for budget, across in ((Budget(ms=1, mb=1, speedup=2), "ms a call"), (Budget(speedup=2), "times as fast as")):
        survey_picture.draw(tmp_path / "survey.svg", book.teacher, rows, budget)
        drawn = (tmp_path / "survey.svg").read_text()
        assert ">resnet8<" in drawn
        assert across in drawn
        assert "inception" not in drawn


@pytest.mark.usefixtures("written")
def test_a_teacher_that_cannot_be_measured_ends_the_survey(tmp_path: Path) -> None:
    def failing(files: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
        raise RuntimeError("no kernel")

    params, book = settings(), Book(tmp_path / "survey.json", KEY, NO_BUDGET)
    with pytest.raises(ParamsError, match=r"teacher\.arch: it cannot be timed \(RuntimeError: no kernel\)"):
        surveys.survey(params, surveys.teacher_of(params, tmp_path), [], failing, book, print)


def test_a_teacher_that_only_its_file_knows_is_read_from_there(tmp_path: Path) -> None:
    network = pruned.cut(tiny.network("resnet14"), 32, 0.5, 4)
    header = Header(
        model=dict(network.spec),
        labels=tiny.card().labels,
        image_px=32,
        normalization=tiny.NORMALIZATION,
        method=None,
        seed=None,
        params_sha256="0" * 64,
        data_sha256="0" * 64,
        licence=None,
    )
    checkpoint.save(network, header, tmp_path / "teacher.safetensors")
    teacher = surveys.teacher_of(
        settings(teacher={"arch": "pruned", "weights": str(tmp_path / "teacher.safetensors")}), tmp_path
    )
    assert num_parameters(teacher) == num_parameters(network)
    with pytest.raises(ParamsError, match=r"params\.yaml: teacher\.arch: there is no 'resnet15'"):
        surveys.teacher_of(settings(teacher={"arch": "resnet15"}), tmp_path)


def test_the_table_is_sorted_by_size_and_marks_what_fits(tmp_path: Path, written: list[str]) -> None:
    methods: dict[str, Any] = {"methods": {"vanilla": {}, "sakd": {}}}
    book, _ = survey("resnet8,mobilenet_v2_half,resnet14", tmp_path, distill=methods)
    assert book.teacher is not None
    text = survey_table.text(book.teacher, list(book.rows.values()), Budget(ms=0.5))
    lines = [line.split() for line in text.splitlines()]
    assert [line[0] for line in lines[1:5]] == ["resnet14", "resnet14", "resnet8", "mobilenet_v2_half"]
    assert [" ".join(line[-2:]) for line in lines[1:3]] == ["4.00 teacher", "in int8"]
    assert lines[3][-1] == "yes"
    assert text.splitlines()[5].startswith("sakd refuses mobilenet_v2_half: sakd compares square stage maps")
