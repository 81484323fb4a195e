"""Whether labels in another order are told from a network that knows nothing, and from one that is good."""

import re

import pytest
import torch
from torch import Tensor

from pipeline.evaluation.label_order import doubt

NAMES = tuple(f"class {k}" for k in range(10))


def answers(labels: Tensor, right: float, order: list[int] | None = None, seed: int = 0) -> Tensor:
    """Logits of a network that is right on that share of the images; class k it calls order[k]."""
    torch.manual_seed(seed)
    guessed = torch.randint(len(NAMES), labels.shape)
    said = torch.where(torch.rand(labels.shape) < right, labels, guessed)
    return torch.nn.functional.one_hot(torch.tensor(order or range(len(NAMES)))[said], len(NAMES)).float()


@pytest.fixture
def labels() -> Tensor:
    """200 images, a tenth of which are of each class, in no order."""
    torch.manual_seed(1)
    return (torch.arange(200) % 10)[torch.randperm(200)]


@pytest.mark.parametrize("right", [0.4, 0.9, 1.0])
def test_a_network_that_is_better_than_chance_is_not_doubted(right: float, labels: Tensor) -> None:
    assert doubt(answers(labels, right), labels, NAMES) is None


def test_another_order_is_certain_and_its_first_classes_are_named(labels: Tensor) -> None:
    order = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    found = doubt(answers(labels, 0.8, order), labels, NAMES)
    assert found is not None
    assert found.is_certain
    assert re.search(r"chance is 10\.0 %; with its classes in another order it is [78]\d\.\d %: ", found.text)
    assert "its class 1 is 'class 0', which is class 0 here, its class 2 is 'class 1'" in found.text
    assert "'class 2', which is class 2 here, and so on. Save" in found.text


@pytest.mark.parametrize("seed", range(10))
def test_a_network_that_knows_nothing_is_doubted_and_no_order_blamed(seed: int, labels: Tensor) -> None:
    found = doubt(answers(labels, 0.0, seed=seed), labels, NAMES)
    assert found is not None
    assert not found.is_certain
    assert "teacher.normalization" in found.text


def test_answers_that_hang_together_with_the_images_a_little_are_no_order_of_the_classes() -> None:
    """As those of an untrained network do, or of one that was shown images normalised otherwise."""
    many = torch.arange(5000) % 10
    found = doubt(answers(many, 0.2, [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]), many, NAMES)
    assert found is not None
    assert not found.is_certain
    assert "teacher.normalization" in found.text


def test_many_classes_whose_images_take_turns_are_put_in_order() -> None:
    names = tuple(map(str, range(500)))
    labels = torch.arange(2000) % 500
    found = doubt(torch.nn.functional.one_hot((labels + 1) % 500, 500).float(), labels, names)
    assert found is not None
    assert found.is_certain
    assert "in another order it is 100.0 %: its class 1 is '0', which is class 0 here" in found.text


def test_two_classes_that_change_places_are_noticed() -> None:
    labels = torch.arange(60) % 2
    swapped = torch.nn.functional.one_hot(1 - labels, 2).float()
    found = doubt(swapped, labels, ("no", "yes"))
    assert found is not None
    assert found.is_certain
    assert found.text.startswith("on average the teacher is right on 0.0 % of a class")


def test_a_rare_class_makes_nobody_doubt_a_good_network() -> None:
    """Of 100 images 95 are of one class: who always says so is right on 95 % of them, and knows nothing."""
    labels = torch.cat([torch.zeros(95), torch.ones(5)]).long()
    good = labels.clone()
    good[:3], good[-1] = 1, 0
    assert doubt(torch.nn.functional.one_hot(good, 2).float(), labels, ("a", "b")) is None
    constant = doubt(torch.nn.functional.one_hot(torch.zeros_like(labels), 2).float(), labels, ("a", "b"))
    assert constant is not None
    assert not constant.is_certain


def test_a_few_images_condemn_no_network() -> None:
    labels = torch.arange(10) % 2
    said = labels.clone()
    said[0] = 1
    assert doubt(torch.nn.functional.one_hot(said, 2).float(), labels, ("a", "b")) is None


def test_one_class_alone_cannot_be_in_another_order() -> None:
    assert doubt(torch.ones(4, 1), torch.zeros(4, dtype=torch.int64), ("a",)) is None
