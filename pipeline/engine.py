"""The only training loop: for a teacher, for a baseline, for every distillation method.

The loop knows no method. It gets a batch to the objective, adds up the named terms that come back, and steps.
Everything that decides a result is a function of (parameters, data, seed, epoch), so that a run that was killed and
resumed ends in the same bits as one that was not.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pipeline import metrics
from pipeline.data.feed import Feed, batch_sizes, num_batches
from pipeline.distillation.base import Batch, Method
from pipeline.errors import ParamsError, TrainingError
from pipeline.params import Augment, Train
from pipeline.resume import Resume

Record = dict[str, Any]
"""One epoch: epoch (from 1), lr, train {loss, top1, and each term}, val {top1, ...}, seconds, images_per_s."""


@dataclass(frozen=True)
class Result:
    """What `fit` leaves besides the trained objective itself."""

    history: list[Record]
    shipped_epoch: int
    """The epoch, counted from 1, whose weights the objective now holds."""

    def summary(self) -> dict[str, Any]:
        """Last and best epoch on the validation split, and which of them ships."""
        best, last = _best(self.history), self.history[-1]
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
) -> Result:
    """Train `objective` in place.

    `on_epoch` is called with the record of every epoch, those of an earlier, interrupted part of the run first.

    Raises ParamsError for batches the objective cannot train on, and TrainingError naming the loss term, epoch and step
    when a loss is no longer finite; the state of the last good epoch is kept.
    """
    device = train.device
    sizes = batch_sizes(len(train), settings.batch_size, settings.drop_last)
    if not sizes:
        raise ParamsError(
            f"an epoch of {len(train)} images has no batch of {settings.batch_size} with drop_last: true. Lower "
            "train.batch_size."
        )
    objective.check_batches(sizes)
    objective.begin(train.labels)
    objective.place_on(device)
    optimizer = torch.optim.SGD(
        objective.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    drops = milestone_epochs(settings)
    history, best = _restore(objective, optimizer, resume)
    for earlier in history:
        on_epoch(earlier)
    clock = _Clock(settings.epochs - len(history))
    for epoch in range(len(history), settings.epochs):
        lr = settings.lr * settings.decay ** sum(drop <= epoch for drop in drops)
        for group in optimizer.param_groups:
            group["lr"] = lr
        if settings.reset_momentum and epoch in drops:
            optimizer.state.clear()
        started = time.perf_counter()
        train_scores = _train_epoch(objective, optimizer, train, settings, augment, seed, epoch)
        seconds = time.perf_counter() - started
        logits, labels = metrics.predict(objective.deployed(), val, settings.batch_size * 4)
        record: Record = {
            "epoch": epoch + 1,
            "lr": lr,
            "train": train_scores,
            "val": metrics.classification(logits, labels),
            "seconds": seconds,
            "images_per_s": len(train) / seconds,
        }
        history.append(record)
        if settings.select == "best" and _best(history) is record:
            best = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
        resume.save(_state(objective, optimizer, best), {"history": history})
        on_epoch(record)
        print(_line(record, settings.epochs, clock.left()), file=sys.stderr, flush=True)
    shipped = settings.epochs
    if settings.select == "best":
        objective.load_state_dict(best)
        shipped = _best(history)["epoch"]
    objective.eval()
    return Result(history, shipped)


def milestone_epochs(settings: Train) -> list[int]:
    """After how many epochs the learning rate drops; fractions are resolved, and one never reached is warned about."""
    drops = [round(m * settings.epochs) if m < 1 else round(m) for m in settings.milestones]
    for milestone, drop in zip(settings.milestones, drops, strict=True):
        if drop >= settings.epochs:
            advice = "Train longer" if milestone < 1 else "Write milestones as fractions of the epochs (0.625)"
            print(
                f"warning: milestone {milestone:g} is never reached in {settings.epochs} epochs, so the learning rate "
                f"does not drop there. {advice} to let it act.",
                file=sys.stderr,
            )
    return drops


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The precision the networks compute in. Raises ParamsError for bf16 where the processor has none."""
    on_cuda = device.type == "cuda"
    has_bf16 = torch.cuda.is_bf16_supported() if on_cuda else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if precision == "bf16" and not has_bf16:
        raise ParamsError("train.precision is bf16, which this processor does not compute in: set auto or fp32.")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_bf16 and precision != "fp32")


def _train_epoch(
    objective: Method,
    optimizer: torch.optim.Optimizer,
    train: Feed,
    settings: Train,
    augment: Augment,
    seed: int,
    epoch: int,
) -> dict[str, float]:
    """One pass over the training set: mean loss, each term's mean, top-1 in percent, all on augmented images."""
    objective.train()
    steps = num_batches(len(train), settings.batch_size, settings.drop_last)
    batches = train.train_batches(augment, seed, epoch, settings.batch_size, settings.drop_last)
    # Asking an accelerator for a number makes it wait, so there the sums are only looked at when the epoch is over.
    check_every = 1 if train.device.type == "cpu" else steps
    sums = torch.zeros(0)
    names: list[str] = []
    correct = torch.zeros((), device=train.device)
    seen = 0
    bar = tqdm(batches, f"epoch {epoch + 1}/{settings.epochs}", steps, leave=False, disable=None, mininterval=1)
    for step, (images, labels, positions) in enumerate(bar):
        batch = Batch(images, labels, positions, (epoch + step / steps) / settings.epochs, epoch)
        with autocast(train.device, settings.precision):
            logits, terms = objective(batch)
        values = torch.stack(list(terms.values()))
        optimizer.zero_grad(set_to_none=True)
        values.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step == 0:
            names, sums = list(terms), torch.zeros(len(terms), device=train.device)
        sums += values.detach() * len(labels)
        correct += (logits.detach().argmax(1) == labels).sum()
        seen += len(labels)
        if (step + 1) % check_every == 0:
            _check_finite(names, sums, epoch, step)
    means = (sums / seen).tolist()
    return {"loss": sum(means), "top1": 100 * correct.item() / seen} | dict(zip(names, means, strict=True))


def _check_finite(names: list[str], sums: Tensor, epoch: int, step: int) -> None:
    bad = [name for name, finite in zip(names, sums.isfinite().tolist(), strict=True) if not finite]
    if bad:
        raise TrainingError(
            f"the loss term {' and '.join(map(repr, bad))} is no longer finite in epoch {epoch + 1}, by step "
            f"{step + 1}. The state of the epoch before is kept. Lower train.lr or that term's weight, or set "
            "train.precision to fp32."
        )


def _best(history: list[Record]) -> Record:
    """The first of the epochs with the highest validation top-1."""
    return max(history, key=lambda record: record["val"]["top1"])


def _state(objective: Method, optimizer: torch.optim.Optimizer, best: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors = {f"method/{name}": tensor for name, tensor in objective.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    for index, state in optimizer.state_dict()["state"].items():
        if state.get("momentum_buffer") is not None:
            tensors[f"momentum/{index}"] = state["momentum_buffer"]
    tensors["rng"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng_cuda"] = torch.cuda.get_rng_state()
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _restore(
    objective: Method, optimizer: torch.optim.Optimizer, resume: Resume
) -> tuple[list[Record], dict[str, Tensor]]:
    """Put back what `_state` took, if there is a state of this run; its history and best weights, or nothing."""
    found = resume.load()
    if found is None:
        return [], {}
    tensors, facts = found

    def under(prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    objective.load_state_dict(under("method/"))
    state = optimizer.state_dict()
    parameters = optimizer.param_groups[0]["params"]
    # A buffer must lie in memory as its parameter does (channels_last): the fused step walks both in memory order.
    state["state"] = {
        int(index): {"momentum_buffer": torch.empty_like(parameters[int(index)]).copy_(buffer)}
        for index, buffer in under("momentum/").items()
    }
    optimizer.load_state_dict(state)
    torch.set_rng_state(tensors["rng"])
    if "rng_cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng_cuda"])
    history: list[Record] = facts["history"]
    print(f"resuming after epoch {len(history)} from {resume.path}", file=sys.stderr)
    return history, under("best/")


class _Clock:
    """Time left, from the epochs of this process alone."""

    def __init__(self, epochs: int) -> None:
        self.epochs, self.done, self.started = epochs, 0, time.perf_counter()

    def left(self) -> float:
        """Seconds, after one more epoch."""
        self.done += 1
        return (time.perf_counter() - self.started) / self.done * (self.epochs - self.done)


def _line(record: Record, epochs: int, left: float) -> str:
    scores = record["train"]
    terms = " + ".join(f"{name} {value:.3g}" for name, value in scores.items() if name not in ("loss", "top1"))
    return (
        f"epoch {record['epoch']}/{epochs}  lr {record['lr']:.4g}  loss {scores['loss']:.4g} ({terms})  "
        f"top-1 train {scores['top1']:.2f} val {record['val']['top1']:.2f}  "
        f"{record['images_per_s']:,.0f} images/s  {int(left // 60)}:{int(left % 60):02d} left"
    )
