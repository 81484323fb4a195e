"""The only training loop: for a teacher, for a baseline, for every distillation method.

The loop knows no method. It gets a batch to the objective, adds up the named terms that come back, and steps.
Everything that decides a result is a function of (parameters, data, seed, epoch), so that a run that was killed, or
asked to stop in the middle of an epoch, ends in the same bits as one that was not.
"""

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.data.feed import Feed, batch_ends, ends_beside, num_batches
from pipeline.devices import distributed
from pipeline.devices.precision import autocast, computes_in
from pipeline.devices.synced_norm import synced
from pipeline.distillation.base import Method
from pipeline.distillation.batch import Batch, Output
from pipeline.evaluation import metrics
from pipeline.settings.data import Augment
from pipeline.settings.training import Train
from pipeline.system import interruption
from pipeline.system.errors import ParamsError, StoppedError, TrainingError
from pipeline.training import batch_sizes, observation
from pipeline.training import state as training_state
from pipeline.training.ema import Average
from pipeline.training.mixing import Mixer
from pipeline.training.progress import Clock, epoch_line
from pipeline.training.resume import Resume
from pipeline.training.schedule import Schedule
from pipeline.training.state import Progress, Record, Tally


@dataclass(frozen=True)
class Result:
    """What `fit` leaves besides the trained objective itself."""

    history: list[Record]
    shipped_epoch: int
    """The epoch, counted from 1, whose weights the objective now holds."""

    def summary(self) -> dict[str, Any]:
        """Last and best epoch on the validation split, and which of them ships."""
        best, last = Progress(self.history).best_epoch(), self.history[-1]
        return {
            "last": {"epoch": last["epoch"], "val_top1": last["val"]["top1"]},
            "best": {"epoch": best["epoch"], "val_top1": best["val"]["top1"]},
            "shipped_epoch": self.shipped_epoch,
        }


def fit(
    objective: Method,
    train: Feed,
    val: Feed,
    settings: Train,
    augment: Augment,
    seed: int,
    resume: Resume,
    on_epoch: Callable[[Record], None],
    val_is_seen: bool = False,
) -> Result:
    """Train `objective` in place, alone or as one of several processes (see `distributed`), all of which call this.

    `on_epoch` is called with the record of every epoch, those of an earlier, interrupted part of the run first.
    `val_is_seen` says that the images of `val` are among those of `train`, for the line that is printed.

    Raises ParamsError for batches or a recipe that the objective cannot train on; TrainingError naming the loss term,
    epoch and step when a loss is no longer finite, or the epoch after which the network's answers are not, the state of
    the last good epoch being kept; and StoppedError when SIGTERM or SIGINT came, with the state of the step that was
    under way.
    """
    fewest = batch_sizes.checked(objective, len(train), settings, distributed.world())
    objective.check_recipe(settings)
    objective.begin(train.labels)
    objective.place_on(train.device)
    if settings.compile:
        compile_for(objective, train.device)
    optimizer = make_optimizer(objective, settings)
    schedule = Schedule(settings, num_batches(len(train), settings.labelled_size, settings.drop_last, fewest))
    average = Average(objective, settings.ema_decay)
    optimizer.register_step_post_hook(lambda *_: average.update())
    distributed.check_same("parameters, data or code", resume.key)
    progress = training_state.restore(resume, objective, optimizer, average)
    distributed.check_same("what is done already", f"{len(progress.history)} epochs, {progress.tally.steps} steps")
    for earlier in progress.history:
        on_epoch(earlier)
    steps = schedule.steps_per_epoch
    clock = Clock((settings.epochs - len(progress.history)) * steps - progress.tally.steps)
    with interruption.listen() as stop:
        for epoch in range(len(progress.history), settings.epochs):
            if settings.reset_momentum and epoch in schedule.drops and not progress.tally.steps:
                optimizer.state.clear()
            whole = train_epoch(
                objective, optimizer, schedule, train, settings, augment, seed, epoch, progress.tally, stop, fewest
            )
            if not whole:
                training_state.save(resume, objective, optimizer, average, progress)
                # Of several processes another one may have been asked.
                number = stop.received or signal.SIGTERM
                raise StoppedError(
                    f"stopped by {number.name} in epoch {epoch + 1}, after step {progress.tally.steps}. The "
                    f"same command goes on from there, by {resume.path}.",
                    number,
                )
            with average.in_place():
                scores = metrics.classification(*metrics.predict(objective.deployed(), val))
                seen = observation.observe(objective, len(train), val, settings)
            if not math.isfinite(scores["nll"]):
                raise TrainingError(
                    f"the validation after epoch {epoch + 1} gives answers that are not finite. The last good "
                    "state is kept. Lower train.lr, or set train.precision to fp32."
                )
            record: Record = {
                "epoch": epoch + 1,
                "lr": schedule.rates(epoch, steps - 1).lr,
                "train": progress.tally.means(),
                "val": scores,
                "seconds": progress.tally.seconds,
                "images_per_s": progress.tally.images / progress.tally.seconds,
                "precision": computes_in(train.device, settings.precision),
                **seen,
            }
            progress.history.append(record)
            progress.tally = Tally()
            if settings.select == "best" and progress.best_epoch() is record:
                with average.in_place():
                    progress.best = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
            training_state.save(resume, objective, optimizer, average, progress)
            on_epoch(record)
            if distributed.rank() == 0:
                left = clock.left((settings.epochs - epoch - 1) * steps)
                print(epoch_line(record, settings.epochs, left, val_is_seen), file=sys.stderr, flush=True)
        if distributed.anybody(stop.received is not None):
            by = stop.received or signal.SIGTERM
            raise StoppedError(f"stopped by {by.name} after the last epoch. The same command finishes the run.", by)
    shipped = settings.epochs
    if settings.select == "best":
        objective.load_state_dict(progress.best)
        shipped = progress.best_epoch()["epoch"]
    else:
        average.exchange()
    objective.eval()
    return Result(progress.history, shipped)


def compile_for(objective: Method, device: torch.device) -> None:
    """Let calls of `objective` run compiled; what it owns, and what it deploys, stays as it is. Raises ParamsError."""
    if distributed.world() > 1:
        raise ParamsError(
            "train.compile is true, which works with one process only. Set it to false, or start one process."
        )
    # Small networks are bound by the launches of kernels on a GPU; this mode records a step as one CUDA graph.
    recorded = device.type == "cuda" and objective.cuda_graphs
    objective.compile(mode="reduce-overhead" if recorded else "default")


def make_optimizer(objective: Method, settings: Train) -> torch.optim.Optimizer:
    """SGD over all that the method trains, in one fused step."""
    return torch.optim.SGD(
        objective.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def train_step(objective: Method, optimizer: torch.optim.Optimizer, batch: Batch, settings: Train) -> Output:
    """One step of optimisation; what the objective computed on its part of the batch, without its graph."""
    with autocast(batch.images.device, settings.precision), synced(settings.sync_bn):
        logits, terms = objective(batch)
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    distributed.average_gradients(objective.parameters())
    optimizer.step()
    return Output(logits.detach(), {name: term.detach() for name, term in terms.items()})


def train_epoch(
    objective: Method,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    train: Feed,
    settings: Train,
    augment: Augment,
    seed: int,
    epoch: int,
    tally: Tally,
    stop: interruption.StopRequest,
    fewest: int = 1,
) -> bool:
    """One pass over the training set, or what is left of it; False when asked to stop, after a whole step.

    `fewest` is as in `Feed.train_batches`. Images of `train.unlabelled` stand behind the labelled ones of each batch.
    """
    objective.train()
    started, earlier = time.perf_counter(), tally.seconds
    steps = schedule.steps_per_epoch
    size, first = settings.labelled_size, tally.steps
    views = objective.views
    batches = train.train_batches(augment, seed, epoch, size, settings.drop_last, first, fewest, views)
    if train.unlabelled is not None:
        ends = ends_beside(
            [0, *batch_ends(len(train), size, settings.drop_last, fewest)], size, settings.unlabelled_size
        )
        others = train.unlabelled.unlabelled_batches(augment, seed, epoch, ends, first, views)
        batches = _beside(batches, others, views)
    mix = Mixer(train, settings, augment, seed, epoch)
    check_every = look_every(train.device, steps)
    name = f"epoch {epoch + 1}/{settings.epochs}"
    silent = None if distributed.rank() == 0 else True
    bar = tqdm(batches, name, steps, leave=False, disable=silent, mininterval=1, initial=first)
    with _naming_what_to_lower(settings, epoch, tally):
        for step, (images, labels, positions) in enumerate(bar, start=first):
            progress = (epoch + step / steps) / settings.epochs
            weak, strong = images.tensor_split(2) if views == 2 else (images, None)
            smoothing = settings.label_smoothing
            batch = mix(Batch(weak, labels, positions, progress, epoch, label_smoothing=smoothing, strong=strong))
            for group in optimizer.param_groups:
                group.update(schedule.rates(epoch, step)._asdict())
            logits, terms = train_step(objective, optimizer, batch, settings)
            correct = (logits[: len(labels)].argmax(1) == batch.main_labels()).sum()
            values, correct = distributed.totals(torch.stack(list(terms.values())), correct)
            tally.add(list(terms), values, correct, len(labels) * distributed.world())
            if tally.steps % check_every == 0:
                _check_finite(tally, epoch)
            # Behind the look at the sums, for which an accelerator finishes the epoch.
            tally.seconds = earlier + time.perf_counter() - started
            if distributed.anybody(stop.received is not None):
                _check_finite(tally, epoch)
                bar.close()
                return False
    return True


def look_every(device: torch.device, steps: int) -> int:
    """After how many of an epoch's steps the sums are looked at: asking an accelerator for a number makes it wait."""
    return 1 if device.type == "cpu" else steps


def _beside(
    batches: Iterator[tuple[Tensor, Tensor, Tensor]], unlabelled: Iterator[Tensor], views: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Each batch with images behind its own, view by view, that have neither label nor position."""
    for (images, labels, positions), others in zip(batches, unlabelled, strict=True):
        of_views = zip(images.tensor_split(views), others.tensor_split(views), strict=True)
        yield torch.cat([part for both in of_views for part in both]), labels, positions


@contextmanager
def _naming_what_to_lower(settings: Train, epoch: int, tally: Tally) -> Iterator[None]:
    """Say of an allocation that fails which batch did not fit, and what helps."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # torch has a type of its own for accelerators alone; on the CPU the allocator's words are all there is.
        told = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
        if not told:
            raise
        raise TrainingError(
            f"out of memory in epoch {epoch + 1}, step {tally.steps + 1}, with batches of {settings.batch_size}: "
            f"{(str(error) or 'no more is known.').splitlines()[0]} Lower train.batch_size, or set train.precision to "
            "bf16."
        ) from error


def _check_finite(tally: Tally, epoch: int) -> None:
    bad = tally.not_finite()
    if bad:
        raise TrainingError(
            f"these loss terms are no longer finite in epoch {epoch + 1}, by step {tally.steps}: "
            f"{', '.join(map(repr, bad))}. The last good state is kept. Lower train.lr or the weight of that term, or "
            "set train.precision to fp32."
        )
