"""The training loop: schedules, resume to the bit, NaN by name, which epoch ships."""

import math
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.distillation.base import Method
from pipeline.distillation.batch import Batch, Output
from pipeline.evaluation import metrics
from pipeline.models import resnet
from pipeline.settings.data import Augment
from pipeline.settings.training import Train
from pipeline.system.errors import ParamsError, PupilError, StoppedError, TrainingError
from pipeline.training import engine
from pipeline.training.mixing import Mixer
from pipeline.training.resume import Resume
from pipeline.training.state import Record
from tests import tiny

AUGMENT = Augment(crop_padding_px=2, flip=False)
SETTINGS = Train(epochs=3, batch_size=24, lr=0.02, milestones=(0.67,), precision="fp32")


class Killed(Exception):
    """Stands for the end of the process, right after an epoch's state was written."""


def fit(
    method: Method, state: Path, settings: Train = SETTINGS, key: str = "k", kill_after: int | None = None
) -> engine.Result:
    def on_epoch(record: Record) -> None:
        if record["epoch"] == kill_after:
            raise Killed

    resume = Resume(state, key)
    return engine.fit(method, tiny.feed(), tiny.feed(32, seed=1), settings, AUGMENT, 0, resume, on_epoch)


def weights(method: Method) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in method.state_dict().items()}


def goes_on_to_the_same_bits(
    name: str, epoch: int, step: int, folder: Path, trained: Callable[[Method, Path], engine.Result]
) -> None:
    """A training that is stopped at this step ends as one that is not. `trained` fits a method."""
    whole = tiny.method(name)
    expected = trained(whole, folder / "whole")
    first = tiny.method(name)
    stop_at(first, epoch, step, signal.SIGTERM)
    with pytest.raises(StoppedError):
        trained(first, folder / "state")
    second = tiny.method(name)
    for parameter in second.parameters():
        torch.nn.init.normal_(parameter)
    came = trained(second, folder / "state")
    assert_same(weights(second), weights(whole))
    for figure in ("lr", "train", "val"):
        assert [r[figure] for r in came.history] == [r[figure] for r in expected.history]


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert not [name for name in a if not torch.equal(a[name], b[name])]


def test_training_learns_the_tiny_task(tmp_path: Path) -> None:
    settings = Train(epochs=8, batch_size=16, lr=0.05, milestones=(0.75,), precision="fp32")
    result = fit(tiny.method("vanilla"), tmp_path / "state", settings)
    assert result.history[-1]["train"]["loss"] < 0.8 * result.history[0]["train"]["loss"]
    assert result.history[-1]["val"]["top1"] > 90


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vanilla", "afd", "sakd", "norm", "simkd", "crd", "sakd_sparse"])
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_a_killed_and_resumed_run_ends_in_the_same_bits(name: str, precision: str, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"precision": precision})
    whole = tiny.method(name)
    expected = fit(whole, tmp_path / "whole", settings)

    first = tiny.method(name)
    with pytest.raises(Killed):
        fit(first, tmp_path / "state", settings, kill_after=2)
    # Another start, other random numbers drawn meanwhile: all must come from the state.
    second = tiny.method(name)
    for parameter in second.parameters():
        torch.nn.init.normal_(parameter)
    came = fit(second, tmp_path / "state", settings)
    assert_same(weights(second), weights(whole))
    assert [r["train"] for r in came.history] == [r["train"] for r in expected.history]


def stop_at(method: Method, epoch: int, step: int, number: signal.Signals) -> None:
    """Send this process a signal while `method` computes that step, both counted from 0."""
    forward, seen = method.forward, []

    def interrupted(batch: Batch) -> Output:
        seen.append(batch.epoch)
        if seen.count(epoch) == step + 1 and batch.epoch == epoch:
            os.kill(os.getpid(), number)
        return forward(batch)

    method.forward = interrupted  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("name", "epoch", "step", "number"),
    [
        ("afd", 0, 0, signal.SIGTERM),
        ("crd", 1, 1, signal.SIGINT),
        ("sakd_sparse", 2, 0, signal.SIGTERM),
        ("kd", 2, 2, signal.SIGTERM),  # the very last step
    ],
)
def test_a_run_that_is_asked_to_stop_goes_on_within_the_epoch_to_the_same_bits(
    name: str, epoch: int, step: int, number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tiny.method(name)
    expected = fit(whole, tmp_path / "whole")
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]

    first = tiny.method(name)
    stop_at(first, epoch, step, number)
    with pytest.raises(StoppedError, match=f"{number.name} in epoch {epoch + 1}, after step {step + 1}"):
        fit(first, tmp_path / "state")
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers

    second = tiny.method(name)
    for parameter in second.parameters():
        torch.nn.init.normal_(parameter)
    came = fit(second, tmp_path / "state")
    assert f"resuming after epoch {epoch} and {step + 1} steps of the next" in capsys.readouterr().err
    assert_same(weights(second), weights(whole))
    assert [r["train"] for r in came.history] == [r["train"] for r in expected.history]


RECIPES: dict[str, dict[str, object]] = {
    "cosine": {"schedule": "cosine", "warmup_epochs": 1},
    "one_cycle": {"schedule": "one_cycle", "base_momentum": 0.8},
    "average": {"ema_decay": 0.7},
    "best_average": {"ema_decay": 0.7, "select": "best"},
    "smoothing": {"label_smoothing": 0.1},
    "mixup": {"mixup_alpha": 0.8},
    "cutmix": {"cutmix_alpha": 1.0},
    "all": {"schedule": "cosine", "ema_decay": 0.7, "label_smoothing": 0.1, "mixup_alpha": 0.8, "cutmix_alpha": 1.0},
}


@pytest.mark.parametrize(
    ("name", "recipe", "epoch", "step"),
    # The first step, the last one of an epoch, and the very last.
    [("kd", recipe, 1, 1) for recipe in RECIPES] + [("norm", "all", *at) for at in ((0, 0), (1, 2), (2, 2))],
)
def test_every_recipe_goes_on_within_the_epoch_to_the_same_bits(
    name: str, recipe: str, epoch: int, step: int, tmp_path: Path
) -> None:
    settings = Train.model_validate(SETTINGS.model_dump() | RECIPES[recipe])
    goes_on_to_the_same_bits(name, epoch, step, tmp_path, lambda method, state: fit(method, state, settings))


@pytest.mark.parametrize("recipe", ["best_average", "all"])
def test_every_recipe_goes_on_between_epochs_to_the_same_bits(recipe: str, tmp_path: Path) -> None:
    settings = Train.model_validate(SETTINGS.model_dump() | RECIPES[recipe])
    whole, second = tiny.method("simkd"), tiny.method("simkd")
    expected = fit(whole, tmp_path / "whole", settings)
    with pytest.raises(Killed):
        fit(tiny.method("simkd"), tmp_path / "state", settings, kill_after=3)
    came = fit(second, tmp_path / "state", settings)
    assert_same(weights(second), weights(whole))
    assert (came.shipped_epoch, came.history[-1]["val"]) == (expected.shipped_epoch, expected.history[-1]["val"])


def test_a_resumed_run_reports_the_earlier_epochs_too(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(tiny.method("kd"), tmp_path / "state", kill_after=1)
    seen = []
    resume = Resume(tmp_path / "state", "k")
    engine.fit(
        tiny.method("kd"), tiny.feed(), tiny.feed(32), SETTINGS, AUGMENT, 0, resume, lambda r: seen.append(r["epoch"])
    )
    assert seen == [1, 2, 3]


def test_a_foreign_state_is_said_and_not_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Killed):
        fit(tiny.method("kd"), tmp_path / "state", key="other", kill_after=1)
    foreign, fresh = tiny.method("kd"), tiny.method("kd")
    fit(foreign, tmp_path / "state", key="mine")
    assert "belongs to a run with other parameters" in capsys.readouterr().err
    fit(fresh, tmp_path / "fresh")
    assert_same(weights(foreign), weights(fresh))


def epochs(state: Path, key: str) -> int | None:
    """Done by the run with this key; None where it has no state."""
    found = Resume(state, key).load()
    return None if found is None else len(found[1]["history"])


def test_an_edit_that_is_taken_back_costs_no_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, before, after = tmp_path / "kd.safetensors", "b" * 64, "a" * 64
    for key, number in ((before, 2), (after, 1)):
        with pytest.raises(Killed):
            fit(tiny.method("kd"), state, key=key, kill_after=number)
    assert (epochs(state, before), epochs(state, after)) == (2, 1)
    method = tiny.method("kd")
    stop_at(method, 2, 1, signal.SIGTERM)
    with pytest.raises(StoppedError, match="in epoch 3, after step 2"):
        fit(method, state, key=before)
    assert f"resuming after epoch 2 from {tmp_path}/kd.bbbbbbbb.safetensors" in capsys.readouterr().err
    assert (epochs(state, before), epochs(state, after)) == (2, 1)
    # One other is kept, the last.
    with pytest.raises(Killed):
        fit(tiny.method("kd"), state, key="c" * 64, kill_after=1)
    assert (epochs(state, before), epochs(state, after)) == (2, None)


def test_a_finished_run_forgets_its_own_state_alone(tmp_path: Path) -> None:
    state, before, after = tmp_path / "kd.safetensors", "b" * 64, "a" * 64
    for key, number in ((before, 3), (after, 1)):
        with pytest.raises(Killed):
            fit(tiny.method("kd"), state, key=key, kill_after=number)
    finished = Resume(state, before)
    assert finished.load() is not None
    finished.clear()
    assert (epochs(state, before), epochs(state, after)) == (None, 1)
    other = Resume(state, after)
    assert other.load() is not None
    other.clear()
    assert list(tmp_path.iterdir()) == []


def test_a_torn_state_is_said_and_not_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Killed):
        fit(tiny.method("kd"), tmp_path / "state", kill_after=1)
    torn = (tmp_path / "state").read_bytes()
    (tmp_path / "state").write_bytes(torn[: len(torn) // 2])
    assert len(fit(tiny.method("kd"), tmp_path / "state").history) == 3
    assert "not a complete safetensors file" in capsys.readouterr().err


def test_a_state_that_cannot_be_read_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with pytest.raises(PupilError, match=r"state, from which a training may go on, cannot be read \(Is a directory\)"):
        fit(tiny.method("kd"), tmp_path / "state")
    assert (tmp_path / "state").is_dir()


def test_a_request_during_the_last_validation_is_heard(tmp_path: Path) -> None:
    def hear(record: Record) -> None:
        if record["epoch"] == SETTINGS.epochs:
            signal.raise_signal(signal.SIGINT)

    module, resume = tiny.method("vanilla"), Resume(tmp_path / "state", "k")
    with pytest.raises(StoppedError, match="stopped by SIGINT after the last epoch"):
        engine.fit(module, tiny.feed(), tiny.feed(32, seed=1), SETTINGS, AUGMENT, 0, resume, hear)
    again = tiny.method("vanilla")
    assert len(fit(again, tmp_path / "state").history) == SETTINGS.epochs
    assert_same(weights(again), weights(module))


class _Diverges(Method):
    """A real method whose second term is lost in the second epoch."""

    needs_teacher = False

    def forward(self, batch: Batch) -> Output:
        logits, terms = super().forward(batch)
        lost = float("nan") if batch.epoch == 1 else 1.0
        return Output(logits, terms | {"extra": terms["ce"] * lost})


def test_a_term_that_turns_nan_is_named_and_the_last_good_state_kept(tmp_path: Path) -> None:
    module = tiny.method("vanilla")
    method = _Diverges(module.config, module.student, None, tiny.card())
    with pytest.raises(TrainingError, match="no longer finite in epoch 2, by step 1: 'extra'"):
        fit(method, tmp_path / "state")
    tensors, facts = Resume(tmp_path / "state", "k").load() or ({}, {})
    assert [r["epoch"] for r in facts["history"]] == [1]
    assert all(t.isfinite().all() for t in tensors.values())


def test_a_stop_keeps_no_state_that_is_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on an accelerator, which is asked for the sums when an epoch is over.
    monkeypatch.setattr(engine, "look_every", lambda device, steps: steps)
    module = tiny.method("vanilla")
    method = _Diverges(module.config, module.student, None, tiny.card())
    stop_at(method, 1, 0, signal.SIGTERM)
    with pytest.raises(TrainingError, match=r"no longer finite in epoch 2, by step 1: 'extra'\. The last good state"):
        fit(method, tmp_path / "state")
    _, facts = Resume(tmp_path / "state", "k").load() or ({}, {})
    assert [r["epoch"] for r in facts["history"]] == [1]


class _Overflows(Method):
    """A real method whose losses are fine, and whose network answers with no numbers in the end."""

    needs_teacher = False

    def deployed(self) -> torch.nn.Module:
        return torch.nn.Sequential(self.student, torch.nn.Threshold(1e9, float("nan")))


def test_a_validation_that_is_not_finite_is_no_result(tmp_path: Path) -> None:
    module = tiny.method("vanilla")
    method = _Overflows(module.config, module.student, None, tiny.card())
    with pytest.raises(TrainingError, match=r"the validation after epoch 1 gives answers that are not finite"):
        fit(method, tmp_path / "state")


class _Hungry(Method):
    """A real method that asks for a petabyte in its second epoch."""

    needs_teacher = False

    def forward(self, batch: Batch) -> Output:
        if batch.epoch == 1:
            torch.empty(2**50, dtype=torch.uint8)
        return super().forward(batch)


def test_memory_that_runs_out_is_said_with_the_batch_and_the_last_good_state_kept(tmp_path: Path) -> None:
    module = tiny.method("vanilla")
    method = _Hungry(module.config, module.student, None, tiny.card())
    with pytest.raises(
        TrainingError, match=r"out of memory in epoch 2, step 1, with batches of 24: .* Lower train\.batch_size"
    ):
        fit(method, tmp_path / "state")
    _, facts = Resume(tmp_path / "state", "k").load() or ({}, {})
    assert [r["epoch"] for r in facts["history"]] == [1]


def test_memory_that_runs_out_between_steps_is_said_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(*arguments: object) -> None:
        torch.empty(2**50, dtype=torch.uint8)

    monkeypatch.setattr(Mixer, "__call__", hungry)
    with pytest.raises(TrainingError, match=r"out of memory in epoch 1, step 1, with batches of 24: "):
        fit(tiny.method("vanilla"), tmp_path / "state")


def test_memory_errors_without_a_word_are_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Mixer, "__call__", hungry)
    with pytest.raises(TrainingError, match=r"out of memory in epoch 1, step 1, .*: no more is known\. Lower"):
        fit(tiny.method("vanilla"), tmp_path / "state")


def test_an_error_that_is_not_about_memory_comes_through(tmp_path: Path) -> None:
    method = tiny.method("vanilla")
    method.student.fc = torch.nn.Linear(3, 4)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fit(method, tmp_path / "state")


def test_the_learning_rate_drops_after_the_milestone(tmp_path: Path) -> None:
    history = fit(tiny.method("vanilla"), tmp_path / "state", Train(epochs=4, milestones=(2, 0.75), lr=0.1)).history
    assert [r["lr"] for r in history] == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_rates_that_move_by_steps_are_reported_as_the_epoch_ends(tmp_path: Path) -> None:
    settings = Train(epochs=2, batch_size=16, lr=0.1, schedule="cosine", precision="fp32")
    history = fit(tiny.method("vanilla"), tmp_path / "state", settings).history
    assert [r["lr"] for r in history] == pytest.approx([0.05 * (1 + math.cos(math.pi * t / 8)) for t in (3, 7)])


def test_best_ships_the_first_epoch_with_the_highest_validation_top1(tmp_path: Path) -> None:
    # A learning rate that ruins the network at the end.
    settings = Train(epochs=4, batch_size=16, lr=0.05, milestones=(3,), decay=1.0, select="best", precision="fp32")
    method = tiny.method("vanilla")
    result = fit(method, tmp_path / "state", settings)
    tops = [record["val"]["top1"] for record in result.history]
    assert result.shipped_epoch == tops.index(max(tops)) + 1
    scores = metrics.classification(*metrics.predict(method.deployed(), tiny.feed(32, seed=1)))
    assert scores == result.history[result.shipped_epoch - 1]["val"]


def test_the_last_validation_figure_is_what_evaluation_says_of_the_result(tmp_path: Path) -> None:
    method = tiny.method("kd")
    result = fit(method, tmp_path / "state")
    scores = metrics.classification(*metrics.predict(method.deployed(), tiny.feed(32, seed=1)))
    assert scores == result.history[-1]["val"]
    assert result.summary()["last"] == {"epoch": 3, "val_top1": scores["top1"]}


def test_an_epoch_that_does_not_divide_trains_on_the_rest_or_drops_it() -> None:
    feed = tiny.feed(50)
    for drop_last, sizes in ((False, [24, 24, 2]), (True, [24, 24])):
        assert [len(labels) for _, labels, _ in feed.train_batches(AUGMENT, 0, 0, 24, drop_last)] == sizes


def test_a_last_batch_that_is_too_small_goes_with_the_one_before() -> None:
    feed = tiny.feed(50)
    for fewest, sizes in ((1, [7] * 7 + [1]), (2, [7] * 6 + [8]), (3, [7] * 6 + [8])):
        batches = list(feed.train_batches(AUGMENT, 0, 0, 7, False, fewest=fewest))
        assert [len(labels) for _, labels, _ in batches] == sizes
        assert sorted(torch.cat([positions for _, _, positions in batches]).tolist()) == list(range(50))
        later = list(feed.train_batches(AUGMENT, 0, 0, 7, False, first=5, fewest=fewest))
        assert [len(labels) for _, labels, _ in later] == sizes[5:]
    assert [len(labels) for _, labels, _ in feed.train_batches(AUGMENT, 0, 0, 7, True, fewest=3)] == [7] * 7


def steps(method: Method, settings: Train, state: Path) -> list[int]:
    """How many images each step of an epoch was trained on."""
    forward, sizes = method.forward, []

    def noting(batch: Batch) -> Output:
        if method.training:
            sizes.append(len(batch.labels))
        return forward(batch)

    method.forward = noting  # type: ignore[method-assign]
    assert len(fit(method, state, settings).history) == 1
    return sizes


@pytest.mark.parametrize(
    ("name", "px", "sizes"),
    [
        ("vanilla", 16, [21, 21, 21, 1]),
        ("vanilla", 4, [21, 21, 22]),  # the last maps are of 1 x 1
        ("simkd", 4, [21, 21, 22]),
        ("fitnet", 4, [21, 21, 22]),
        ("afd", 16, [21, 21, 22]),
        ("rkd", 16, [21, 21, 22]),
    ],
)
def test_one_image_is_left_over_and_trained_on(
    name: str, px: int, sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "IMAGE_PX", px)
    settings = Train(epochs=1, batch_size=21, lr=0.001, milestones=(), precision="fp32")
    assert steps(tiny.method(name), settings, tmp_path / "state") == sizes


def test_a_batch_too_small_for_the_method_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Train(epochs=1, batch_size=2, precision="fp32")
    said = "rkd needs at least 3 images in a batch, but an epoch would have a batch of 2. Set train.batch_size to 3"
    with pytest.raises(ParamsError, match=said):
        fit(tiny.method("rkd"), tmp_path / "state", settings)
    monkeypatch.setattr(tiny, "IMAGE_PX", 4)
    said = "vanilla needs at least 2 images in a batch with resnet8 at 4 px, because one image gives its batch normal"
    with pytest.raises(ParamsError, match=said):
        fit(tiny.method("vanilla"), tmp_path / "state", settings.model_copy(update={"batch_size": 1}))


def test_no_whole_batch_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="no batch"):
        fit(tiny.method("kd"), tmp_path / "state", Train(epochs=1, batch_size=100, drop_last=True))


def test_momentum_is_forgotten_at_a_milestone_only_when_asked(tmp_path: Path) -> None:
    # With the learning rate unchanged, all that differs from epoch 2 on is the momentum.
    ends = []
    for reset in (False, True):
        settings = Train(epochs=2, batch_size=16, milestones=(1,), decay=1.0, reset_momentum=reset, precision="fp32")
        method = tiny.method("vanilla")
        result = fit(method, tmp_path / str(reset), settings)
        ends.append((result.history[0]["train"], result.history[1]["train"]))
    assert ends[0][0] == ends[1][0]
    assert ends[0][1] != ends[1][1]


@pytest.mark.parametrize(
    ("name", "device", "expected"),
    [
        ("kd", "cuda", "reduce-overhead"),
        ("crd", "cuda", "default"),
        ("kdsvd", "cuda", "default"),
        ("kd", "cpu", "default"),
    ],
)
def test_a_step_is_recorded_on_a_gpu_unless_the_method_forbids_it(
    name: str, device: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, modes = tiny.method(name), []
    monkeypatch.setattr(method, "compile", lambda mode: modes.append(mode))
    engine.compile_for(method, torch.device(device))
    assert modes == [expected]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # torch's own, as it compiles
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile builds its kernels with a C++ compiler")
@pytest.mark.parametrize("name", ["kd", "crld"])  # of one view, and of two
def test_a_compiled_training_has_the_losses_of_a_plain_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Torch takes kernels from there that it made for wider registers, if the folder was on another processor before.
    capability = torch.backends.cpu.get_cpu_capability().replace(" ", "-")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor-{os.getuid()}-{capability}")
    # A stem and one block: each further kernel that differs costs a second of a C++ compiler.
    monkeypatch.setitem(resnet.SIZES, "resnet4", resnet._Size(16, (16,), (1,), imagenet_stem=False))

    def method() -> Method:
        return tiny.method(name, "resnet4", "resnet4")

    settings = Train(epochs=1, batch_size=32, lr=0.01, milestones=(), precision="fp32")
    plain = fit(method(), tmp_path / "plain", settings)
    compiled = method()
    came = fit(compiled, tmp_path / "compiled", settings.model_copy(update={"compile": True}))
    assert came.history[0]["train"] == pytest.approx(plain.history[0]["train"], rel=1e-4)
    assert came.history[0]["val"]["nll"] == pytest.approx(plain.history[0]["val"]["nll"], rel=1e-4)
    assert compiled.state_dict().keys() == method().state_dict().keys()
