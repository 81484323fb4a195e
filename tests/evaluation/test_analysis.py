"""What is said of single classes, confidences and images, against hand-made cases and against the scores."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.evaluation import metrics
from pipeline.evaluation.analysis import MAX_MATRIX, analyse, tables

NAMES = ("cat", "dog", "owl")
# Of class: 0    0    0    1    1    (none of 2)
LABELS = torch.tensor([0, 0, 0, 1, 1])
SAID = torch.tensor([0, 1, 1, 1, 2])
TEACHER = torch.tensor([0, 0, 1, 2, 2])


def logits_of(said: Tensor, strength: Tensor | None = None, classes: int = 3) -> Tensor:
    logits = torch.zeros(len(said), classes)
    logits[torch.arange(len(said)), said] = torch.ones(len(said)) if strength is None else strength
    return logits


@pytest.fixture
def found() -> dict[str, Any]:
    strength = torch.tensor([1.0, 2, 5, 3, 4])
    return analyse(logits_of(SAID, strength), LABELS, NAMES, logits_of(TEACHER))


def test_classes_by_hand_and_one_without_images(found: dict[str, Any]) -> None:
    keys = ("label", "images", "top1", "teacher_top1", "agreement")
    assert [tuple(part[key] for key in keys) for part in found["classes"]] == [
        ("cat", 3, pytest.approx(100 / 3), pytest.approx(200 / 3), pytest.approx(200 / 3)),
        ("dog", 2, 50.0, 0.0, 50.0),
        ("owl", 0, None, None, None),
    ]
    assert found["classes"][1]["interval"] == pytest.approx([9.453, 90.547], abs=1e-3)
    assert found["classes"][2]["interval"] is None


def test_confusions_by_hand(found: dict[str, Any]) -> None:
    assert found["confusion"] == [[1, 2, 0], [0, 1, 1], [0, 0, 0]]
    assert [tuple(one.values()) for one in found["largest_confusions"]] == [
        ("cat", "dog", 2, pytest.approx(200 / 3)),
        ("dog", "owl", 1, 50.0),
    ]


def test_the_surest_mistakes_come_first(found: dict[str, Any]) -> None:
    assert [(one["position"], one["true"], one["predicted"]) for one in found["mistakes"]] == [
        (2, "cat", "dog"),
        (4, "dog", "owl"),
        (1, "cat", "dog"),
    ]
    e = torch.tensor(5.0).double().exp().item()
    assert found["mistakes"][0]["confidence"] == pytest.approx(e / (e + 2))


def test_what_student_and_teacher_get_right_alone(found: dict[str, Any]) -> None:
    assert found["against_teacher"] == {
        "both": 1,
        "only_student": 1,
        "only_teacher": 1,
        "neither": 2,
        "only_student_positions": [3],
        "only_teacher_positions": [1],
    }


def test_a_reliability_diagram_holds_every_image_and_the_calibration_error() -> None:
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(500, 7), torch.randint(0, 7, (500,))
    bins = analyse(logits, labels, [str(k) for k in range(7)])["reliability"]
    assert (bins[0]["low"], bins[-1]["high"], sum(part["images"] for part in bins)) == (0.0, 1.0, 500)
    for part in bins:
        assert (part["images"] == 0) == (part["accuracy"] is None) == (part["confidence"] is None)
        assert part["confidence"] is None or part["low"] < part["confidence"] <= part["high"]
    gaps = [part["images"] / 500 * abs(part["accuracy"] - part["confidence"]) for part in bins if part["images"]]
    assert sum(gaps) == pytest.approx(metrics.classification(logits, labels)["ece"])


@pytest.mark.parametrize("classes", [2, 5, MAX_MATRIX + 1])
@pytest.mark.parametrize("case", ["right", "wrong", "single", "equal"])
def test_every_count_is_that_of_the_scores(classes: int, case: str) -> None:
    labels = torch.arange(1 if case == "single" else 40) % classes
    said = (labels + (case == "wrong")) % classes
    logits = torch.zeros(len(labels), classes) if case == "equal" else logits_of(said, classes=classes)
    names = [f"class {k}" for k in range(classes)]
    found = analyse(logits, labels, names, logits)
    json.dumps(found, allow_nan=False)
    top1 = metrics.classification(logits, labels)["top1"]
    count = round(top1 * len(labels) / 100)
    seen = [part for part in found["classes"] if part["images"]]
    assert sum(part["top1"] * part["images"] / 100 for part in seen) == pytest.approx(count)
    against = found["against_teacher"]
    assert (against["both"], against["neither"]) == (count, len(labels) - count)
    assert len(found["mistakes"]) == min(24, len(labels) - count)
    assert len(found["largest_confusions"]) <= 20
    if classes > MAX_MATRIX:
        assert found["confusion"] is None
    else:
        assert sum(map(sum, found["confusion"])) == len(labels)
        assert sum(row[k] for k, row in enumerate(found["confusion"])) == count


def test_the_tables_of_plots_leave_out_what_is_not_known(found: dict[str, Any]) -> None:
    rows = dict(tables(found, logits_of(SAID), LABELS, NAMES))
    assert rows["confusion"][:3] == [("actual", "predicted"), ("cat", "cat"), ("cat", "dog")]
    assert len(rows["confusion"]) == 6
    assert [label for label, _ in rows["classes"]] == ["label", "cat", "dog"]
    assert all(None not in row for name in rows for row in rows[name])
