"""The average of the weights: torch's own, and what is validated and ships."""

from pathlib import Path

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.distillation.base import Method
from pipeline.distillation.batch import Batch, Output
from pipeline.evaluation import metrics
from pipeline.settings.training import Train
from pipeline.training import engine
from pipeline.training.ema import Average
from tests import tiny
from tests.training.test_engine import SETTINGS, assert_same, fit, weights

EMA = SETTINGS.model_copy(update={"ema_decay": 0.7})


def floats(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in weights(module).items() if tensor.is_floating_point()}


def beside_torchs(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Method, AveragedModel]:
    """A method, and torch's average of its student, which every step of the engine moves on."""
    method = tiny.method(name)
    averaged = AveragedModel(method.student, multi_avg_fn=get_ema_multi_avg_fn(0.7), use_buffers=True)
    step = engine.train_step

    def followed(objective: Method, optimizer: torch.optim.Optimizer, batch: Batch, settings: Train) -> Output:
        output = step(objective, optimizer, batch, settings)
        averaged.update_parameters(objective.student)
        return output

    monkeypatch.setattr(engine, "train_step", followed)
    return method, averaged


@pytest.mark.parametrize("name", ["vanilla", "kd", "simkd", "norm"])
def test_what_ships_is_torchs_average_over_all_steps(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, averaged = beside_torchs(name, monkeypatch)
    fit(method, tmp_path / "state", EMA)
    came, expected = floats(method.student), floats(averaged.module)
    assert came.keys() == expected.keys()
    for key, tensor in came.items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["kd", "norm", "simkd"])
@pytest.mark.parametrize("select", ["last", "best"])
def test_what_is_validated_is_what_ships(name: str, select: str, tmp_path: Path) -> None:
    method = tiny.method(name)
    result = fit(method, tmp_path / "state", EMA.model_copy(update={"select": select}))
    scores = metrics.classification(*metrics.predict(method.deployed(), tiny.feed(32, seed=1)))
    assert scores == result.history[result.shipped_epoch - 1]["val"]


def test_averaging_does_not_touch_the_training(tmp_path: Path) -> None:
    with_average = fit(tiny.method("crd"), tmp_path / "a", EMA)
    without = fit(tiny.method("crd"), tmp_path / "b", SETTINGS)
    assert [r["train"] for r in with_average.history] == [r["train"] for r in without.history]
    assert [r["val"] for r in with_average.history] != [r["val"] for r in without.history]


def test_the_trained_weights_come_back_to_the_bit() -> None:
    method = tiny.method("norm")
    average = Average(method, 0.9)
    for _ in range(2):
        for parameter in method.parameters():
            torch.nn.init.normal_(parameter)
        average.update()
    trained, followed = weights(method), {name: tensor.clone() for name, tensor in average.tensors.items()}
    with average.in_place():
        held = weights(method)
        assert_same({name: held[name] for name in followed}, followed)
    assert_same(weights(method), trained)
    assert_same(average.tensors, followed)


def test_banks_and_integers_are_left_alone() -> None:
    method = tiny.method("crd")
    average = Average(method, 0.9)
    average.update()
    others = method.state_dict().keys() - average.tensors.keys()
    expected = {f"contrast.{name}" for name in ("bank_s", "bank_t", "z_s", "z_t")}
    assert {name for name in others if not name.endswith("num_batches_tracked")} == expected


def test_without_a_decay_there_is_no_average() -> None:
    method = tiny.method("kd")
    average, before = Average(method, None), weights(method)
    average.update()
    average.exchange()
    assert not average.tensors
    assert_same(weights(method), before)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1])
def test_a_decay_that_averages_nothing_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="ema_decay"):
        Train(ema_decay=decay)
