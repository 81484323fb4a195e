"""Learning rates: torch's own schedulers, step by step, and settings that contradict each other."""

from pathlib import Path

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, MultiStepLR, OneCycleLR, SequentialLR

from pipeline.settings.params import Params
from pipeline.settings.presets import overlaid
from pipeline.settings.reading import parse
from pipeline.settings.training import Train
from pipeline.training.schedule import Rates, Schedule, milestone_epochs, never_reached

ROOT = Path(__file__).parents[2]
STEPS = 7


def optimizer(settings: Train) -> SGD:
    return SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.lr, momentum=settings.momentum)


def by_torch(sgd: SGD, scheduler: LRScheduler, steps: int) -> list[Rates]:
    rates = []
    for step in range(steps):
        rates.append(Rates(sgd.param_groups[0]["lr"], sgd.param_groups[0]["momentum"]))
        sgd.step()
        if step < steps - 1:
            scheduler.step()
    return rates


def ours(settings: Train) -> list[Rates]:
    schedule = Schedule(settings, STEPS)
    return [schedule.rates(epoch, step) for epoch in range(settings.epochs) for step in range(STEPS)]


def assert_equal(came: list[Rates], expected: list[Rates]) -> None:
    assert len(came) == len(expected)
    for rates, known in zip(came, expected, strict=True):
        assert rates == pytest.approx(known, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_cosine_is_torchs(epochs: int) -> None:
    settings = Train(epochs=epochs, lr=0.3, schedule="cosine")
    sgd = optimizer(settings)
    assert_equal(ours(settings), by_torch(sgd, CosineAnnealingLR(sgd, epochs * STEPS), epochs * STEPS))


def warming(sgd: SGD, after: LRScheduler, steps: int) -> SequentialLR:
    return SequentialLR(sgd, [LinearLR(sgd, 1 / (steps + 1), total_iters=steps), after], [steps])


@pytest.mark.parametrize("warmup_epochs", [1, 4])
def test_warm_up_and_cosine_are_torchs(warmup_epochs: int) -> None:
    settings = Train(epochs=5, lr=0.3, schedule="cosine", warmup_epochs=warmup_epochs)
    sgd, warm = optimizer(settings), warmup_epochs * STEPS
    scheduler = warming(sgd, CosineAnnealingLR(sgd, 5 * STEPS - warm), warm)
    assert_equal(ours(settings), by_torch(sgd, scheduler, 5 * STEPS))


def test_warm_up_and_milestones_are_torchs() -> None:
    settings = Train(epochs=8, lr=0.3, milestones=(0.5, 6), decay=0.2, warmup_epochs=2)
    sgd, warm = optimizer(settings), 2 * STEPS
    scheduler = warming(sgd, MultiStepLR(sgd, [4 * STEPS - warm, 6 * STEPS - warm], 0.2), warm)
    assert_equal(ours(settings), by_torch(sgd, scheduler, 8 * STEPS))


@pytest.mark.parametrize("epochs", [1, 2, 30])
@pytest.mark.parametrize("base_momentum", [None, 0.85])
def test_one_cycle_is_torchs(epochs: int, base_momentum: float | None) -> None:
    settings = Train(epochs=epochs, lr=0.3, momentum=0.95, schedule="one_cycle", base_momentum=base_momentum)
    sgd = optimizer(settings)
    scheduler = OneCycleLR(sgd, 0.3, epochs * STEPS, cycle_momentum=base_momentum is not None)
    assert_equal(ours(settings), by_torch(sgd, scheduler, epochs * STEPS))


def test_one_cycle_in_a_single_step_is_torchs() -> None:
    settings = Train(epochs=1, lr=0.3, schedule="one_cycle")
    sgd = optimizer(settings)
    expected = by_torch(sgd, OneCycleLR(sgd, 0.3, 1, cycle_momentum=False), 1)
    assert_equal([Schedule(settings, 1).rates(0, 0)], expected)


def test_milestones_are_passed_between_epochs_and_multiply_as_written() -> None:
    settings = Train(epochs=4, lr=0.05, milestones=(2, 0.75), decay=0.1)
    # To the bit: results of this schedule are published.
    expected = [0.05 * 0.1**drops for drops in (0, 0, 1, 2) for _ in range(STEPS)]
    assert ours(settings) == [Rates(lr, 0.9) for lr in expected]


def test_published_milestones_first_act_in_epoch_151() -> None:
    drops = milestone_epochs(Train(epochs=240, milestones=(0.625, 0.75, 0.875)))
    assert drops == milestone_epochs(Train(epochs=240, milestones=(150, 180, 210))) == [150, 180, 210]


def test_milestones_behind_the_last_epoch_are_known() -> None:
    assert never_reached(Train(epochs=65, milestones=(150, 60, 0.999))) == [150, 0.999]
    assert never_reached(Train(epochs=2, milestones=(0.625, 0.75, 0.875))) == [0.75, 0.875]
    assert never_reached(Train(epochs=65, milestones=(150,), schedule="cosine")) == []


@pytest.mark.parametrize("preset", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_no_preset_has_a_milestone_behind_its_last_epoch(preset: Path) -> None:
    shipped = parse(Params, overlaid(ROOT / "params.yaml", [preset]), "", preset.name)
    assert never_reached(shipped.teacher.train) == never_reached(shipped.distill.train) == []
