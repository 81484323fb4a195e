"""Scores against hand-made cases."""

import math

import pytest
import torch

from pipeline.evaluation import metrics


def logits_of(probabilities: list[list[float]]) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log().float()


def test_top1_top5_and_nll_by_hand() -> None:
    logits = torch.full((2, 6), 0.0)
    logits[0] = torch.tensor([5.0, 4, 3, 2, 1, 0])
    logits[1] = torch.tensor([0.0, 1, 2, 3, 4, 5])
    scores = metrics.classification(logits, torch.tensor([0, 0]))
    assert (scores["top1"], scores["top5"]) == (50.0, 50.0)
    partition = math.log(sum(math.exp(k) for k in range(6)))
    assert scores["nll"] == pytest.approx(((partition - 5) + (partition - 0)) / 2)


def test_top5_of_three_classes_is_everything() -> None:
    assert metrics.classification(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))["top5"] == 100.0


def test_among_equal_logits_the_lower_class_comes_first_in_every_score() -> None:
    logits, labels = torch.zeros(7, 7), torch.arange(7)
    scores = metrics.classification(logits, labels)
    assert scores["top1"] == pytest.approx(100 / 7) == 100 * (logits.argmax(1) == labels).double().mean().item()
    assert scores["top5"] == pytest.approx(500 / 7)


def test_an_answer_that_is_no_number_is_never_right() -> None:
    logits = torch.tensor([[float("nan")] * 6, [0.0, float("nan"), 1, 2, 3, 4], [float("nan"), 5, 1, 2, 3, 4]])
    scores = metrics.classification(logits, torch.tensor([0, 1, 1]))
    assert (scores["top1"], scores["top5"]) == (0.0, pytest.approx(100 / 3))


def test_large_images_come_in_smaller_batches() -> None:
    assert [metrics.batch_size(px) for px in (8, 32, 128, 224, 1024, 4096)] == [256, 256, 256, 83, 4, 1]


def test_calibration_error_by_hand() -> None:
    # Confidences 0.8 (right, wrong) and 0.6 (right, right): |0.5 - 0.8| / 2 + |1 - 0.6| / 2.
    logits = logits_of([[0.8, 0.2], [0.8, 0.2], [0.6, 0.4], [0.6, 0.4]])
    labels = torch.tensor([0, 1, 0, 0])
    assert metrics.expected_calibration_error(logits, labels) == pytest.approx(0.35, abs=1e-6)


def test_a_sure_and_right_network_is_calibrated_and_a_sure_and_wrong_one_is_not() -> None:
    logits = torch.tensor([[100.0, 0.0]] * 3)
    assert metrics.expected_calibration_error(logits, torch.tensor([0, 0, 0])) == pytest.approx(0)
    assert metrics.expected_calibration_error(logits, torch.tensor([1, 1, 1])) == pytest.approx(1)


def test_agreement_by_hand() -> None:
    student, teacher = logits_of([[0.5, 0.5], [0.9, 0.1]]), logits_of([[0.25, 0.75], [0.9, 0.1]])
    scores = metrics.agreement(student, teacher)
    assert scores["top1_agreement"] in (50.0, 100.0)  # the first student is undecided
    assert scores["kl_from_teacher"] == pytest.approx((0.25 * math.log(0.5) + 0.75 * math.log(1.5)) / 2, rel=1e-5)


def test_spread_is_the_sample_deviation_and_unknown_for_one_run() -> None:
    assert metrics.mean_and_spread([1.0, 3.0]) == {"mean": 2.0, "std": pytest.approx(2**0.5), "n": 2}
    assert metrics.mean_and_spread([1.0]) == {"mean": 1.0, "std": None, "n": 1}
