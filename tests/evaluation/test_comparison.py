"""Intervals and tests of differences: hand-made cases, the resampling they stand for, and how often they hold."""

import math

import numpy as np
import pytest

from pipeline.evaluation import comparison
from pipeline.evaluation.comparison import Bootstrap, Right

BOOTSTRAP = Bootstrap(resamples=2000, seed=0)


def right(count: int, images: int = 100) -> Right:
    return np.arange(images) < count


def test_an_interval_is_that_of_images_drawn_with_replacement() -> None:
    generator = np.random.default_rng(1)
    values = generator.integers(-1, 2, (60, 1)).astype(np.int8)
    drawn = 100 * values[generator.integers(0, 60, (20_000, 60)), 0].mean(1)
    came = Bootstrap(resamples=20_000, seed=0).interval(values)
    # Means move in steps of 1.67 points.
    assert came == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=1.7)


def test_seeds_and_images_are_drawn_anew_each_on_its_own() -> None:
    generator = np.random.default_rng(1)
    values = (generator.random((50, 3)) < (0.2, 0.5, 0.8)).astype(np.int8)
    images, seeds = generator.integers(0, 50, (20_000, 50, 1)), generator.integers(0, 3, (20_000, 1, 3))
    drawn = 100 * values[images, seeds].mean((1, 2))
    came = Bootstrap(resamples=20_000, seed=0).interval(values)
    assert came == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=1.0)
    # Seeds that differ so much make it far wider than images alone do.
    low, high = BOOTSTRAP.interval(values.sum(1, keepdims=True))
    assert came[1] - came[0] > 2 * (high - low) / 3


def test_an_interval_holds_the_true_accuracy_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    intervals = [Bootstrap(400, seed).accuracy(generator.random(200) < 0.7) for seed in range(400)]
    held = np.mean([low <= 70 <= high for low, high in intervals])
    assert 0.91 < held < 0.98


def test_the_same_seed_gives_the_same_interval_and_another_one_another() -> None:
    values = right(37)
    assert BOOTSTRAP.accuracy(values) == BOOTSTRAP.accuracy(values.copy()) != Bootstrap(2000, 1).accuracy(values)


@pytest.mark.parametrize(("count", "images", "expected"), [(0, 10, 0.0), (10, 10, 100.0), (1, 1, 100.0), (0, 1, 0.0)])
def test_all_right_and_all_wrong_leave_nothing_to_draw(count: int, images: int, expected: float) -> None:
    assert BOOTSTRAP.accuracy(right(count, images)) == [expected, expected]


def test_wilsons_interval_by_its_formula() -> None:
    z, n, p = 1.959963984540054, 10, 0.8
    centre, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = [100 * (centre + sign * half) / (1 + z**2 / n) for sign in (-1, 1)]
    assert comparison.wilson(8, 10) == pytest.approx(expected)
    assert comparison.wilson(0, 0) is None


def test_mcnemar_by_hand() -> None:
    # Of 6 images on which two networks differ, one alone gets 5: twice (1 + 6) / 2^6.
    assert comparison.mcnemar(5, 1) == comparison.mcnemar(1, 5) == pytest.approx(14 / 64)
    assert comparison.mcnemar(0, 0) == comparison.mcnemar(7, 7) == 1.0
    assert comparison.mcnemar(10, 0) == pytest.approx(2 / 2**10)


def test_each_student_stands_beside_the_baseline_of_its_seed_and_beside_the_teacher() -> None:
    by_method = {"vanilla": {0: right(50), 1: right(52)}, "kd": {0: right(54), 1: right(53)}}
    record = comparison.compare(by_method, right(60), BOOTSTRAP)
    assert (record["baseline"], record["images"], record["resamples"]) == ("vanilla", 100, 2000)
    pairs = {(pair["method"], pair["against"], pair["seed"]): pair for pair in record["pairs"]}
    assert {place: (pair["only_this"], pair["only_other"], pair["difference"]) for place, pair in pairs.items()} == {
        ("vanilla", "teacher", 0): (0, 10, -10.0),
        ("vanilla", "teacher", 1): (0, 8, -8.0),
        ("kd", "vanilla", 0): (4, 0, 4.0),
        ("kd", "vanilla", 1): (1, 0, 1.0),
        ("kd", "teacher", 0): (0, 6, -6.0),
        ("kd", "teacher", 1): (0, 7, -7.0),
    }
    assert pairs["kd", "vanilla", 0]["mcnemar_p"] == pytest.approx(2 / 2**4)
    means = {(line["method"], line["against"]): line for line in record["methods"]}
    assert {place: (line["difference"], line["seeds"]) for place, line in means.items()} == {
        ("vanilla", "teacher"): (-9.0, 2),
        ("kd", "vanilla"): (2.5, 2),
        ("kd", "teacher"): (-6.5, 2),
    }
    for line in [*record["pairs"], *record["methods"]]:
        low, high = line["interval"]
        assert low <= line["difference"] <= high


def test_without_a_baseline_there_is_the_teacher_alone() -> None:
    record = comparison.compare({"kd": {3: right(1, 1)}}, right(0, 1), BOOTSTRAP)
    assert record["baseline"] is None
    assert [(pair["against"], pair["seed"], pair["difference"]) for pair in record["pairs"]] == [("teacher", 3, 100.0)]
