"""How far a training has come, and how it is put away and taken up again: between epochs or in the middle of one."""

import sys
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipeline.devices import distributed
from pipeline.distillation.base import Method
from pipeline.training.ema import Average
from pipeline.training.resume import Resume

Record = dict[str, Any]
"""One epoch: epoch (from 1), lr (of its last step), train {loss, top1, and each term}, val {top1, ...}, seconds,
images_per_s, precision (bf16 or fp32, in which this epoch was computed), and what the method's `observe` adds. Only
labelled images are counted. With mixed images, train top1 counts the one that has the larger share."""


@dataclass
class Tally:
    """Sums over the steps of the epoch under way."""

    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    names: list[str] = field(default_factory=list)
    """Of the loss terms."""
    sums: Tensor = field(default_factory=lambda: torch.zeros(0))
    """Each term, times the images of its batch."""
    correct: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, names: list[str], values: Tensor, correct: Tensor, images: int) -> None:
        """One more step; stays on the device and asks it for nothing."""
        if not self.steps:
            self.names, self.sums, self.correct = names, torch.zeros_like(values), torch.zeros_like(correct)
        self.steps += 1
        self.images += images
        self.sums += values * images
        self.correct += correct

    def means(self) -> dict[str, float]:
        """Loss, top-1 in percent, and each term."""
        means = (self.sums / self.images).tolist()
        top1 = 100 * self.correct.item() / self.images
        return {"loss": sum(means), "top1": top1} | dict(zip(self.names, means, strict=True))

    def not_finite(self) -> list[str]:
        """Terms whose sum is no longer a number."""
        return [name for name, finite in zip(self.names, self.sums.isfinite().tolist(), strict=True) if not finite]


@dataclass
class Progress:
    """All epochs that are done, and the one under way."""

    history: list[Record] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    """Weights of the best epoch, where it is the best that ships."""
    tally: Tally = field(default_factory=Tally)

    def best_epoch(self) -> Record:
        """The first of the epochs with the highest validation top-1."""
        return max(self.history, key=lambda record: record["val"]["top1"])


def save(
    resume: Resume, objective: Method, optimizer: torch.optim.Optimizer, average: Average, progress: Progress
) -> None:
    """Write all that changed since the training began. Of several processes, the first one does."""
    if distributed.rank() != 0:
        return
    tally = progress.tally
    tensors = {f"method/{name}": tensor for name, tensor in objective.state_dict().items()}
    tensors |= {f"average/{name}": tensor for name, tensor in average.tensors.items()}
    tensors |= {f"best/{name}": tensor for name, tensor in progress.best.items()}
    for index, state in optimizer.state_dict()["state"].items():
        if state.get("momentum_buffer") is not None:
            tensors[f"momentum/{index}"] = state["momentum_buffer"]
    tensors |= {"sums": tally.sums, "correct": tally.correct, "rng": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["rng_cuda"] = torch.cuda.get_rng_state()
    counts = {name: getattr(tally, name) for name in ("steps", "images", "seconds", "names")}
    cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    resume.save(cpu, {"history": progress.history, "tally": counts})


def restore(resume: Resume, objective: Method, optimizer: torch.optim.Optimizer, average: Average) -> Progress:
    """Put back what `save` took, if there is a state of this run; a fresh start where there is none."""
    found = resume.load()
    if found is None:
        return Progress()
    tensors, facts = found

    objective.load_state_dict(under("method/", tensors))
    average.load(under("average/", tensors))
    state = optimizer.state_dict()
    parameters = optimizer.param_groups[0]["params"]
    # A buffer must lie in memory as its parameter does (channels_last): the fused step walks both in memory order.
    state["state"] = {
        int(index): {"momentum_buffer": torch.empty_like(parameters[int(index)]).copy_(buffer)}
        for index, buffer in under("momentum/", tensors).items()
    }
    optimizer.load_state_dict(state)
    torch.set_rng_state(tensors["rng"])
    if "rng_cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng_cuda"])
    device = parameters[0].device
    tally = Tally(**facts["tally"], sums=tensors["sums"].to(device), correct=tensors["correct"].to(device))
    done = f"epoch {len(facts['history'])}" + (f" and {tally.steps} steps of the next" if tally.steps else "")
    if distributed.rank() == 0:
        print(f"resuming after {done} from {resume.found}", file=sys.stderr)
    return Progress(facts["history"], under("best/", tensors), tally)


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of a state's tensors whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
