"""One training by several processes: who we are, which rows are ours, and what all of them must agree on.

Every process holds the whole objective and computes its equal part of each batch; order, schedule, augmentation and
losses are those of the whole batch, so that a run gives the same numbers with one process and with eight, but for
rounding. Outside `joined` there is one process, and every function here hands back what it got, at no cost.

A loss that relates the images of a batch to each other takes `gather` of what it reads, and computes the whole batch's
term in every process. The gradient of such a term comes out right because `gather` adds up the gradients of all
processes and `average_gradients` divides by their number.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import Parameter

from pipeline.devices.precision import best_device
from pipeline.system.errors import ParamsError, TrainingError

_TIMEOUT = timedelta(minutes=10)


@contextmanager
def joined() -> Iterator[torch.device]:
    """Join the processes that torchrun (or this project's own launcher) started; the device to compute on.

    Reads RANK, WORLD_SIZE and LOCAL_RANK; without RANK there is nobody to join. They meet at MASTER_ADDR, or in the
    file PUPIL_STORE where all run on one machine.
    """
    device = best_device()
    if "RANK" not in os.environ:
        yield device
        return
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise ParamsError(
                f"this machine has {torch.cuda.device_count()} GPUs, but process {local + 1} was started on it. Start "
                "no more processes than it has GPUs (train.processes, or --nproc-per-node of torchrun)."
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    meeting = f"file://{os.environ['PUPIL_STORE']}" if "PUPIL_STORE" in os.environ else "env://"
    number, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(backend, meeting, timeout=_TIMEOUT, rank=number, world_size=count)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0. The first one alone writes files and reports."""
    return dist.get_rank() if dist.is_initialized() else 0


def check_batches(sizes: set[int], processes: int) -> None:
    """Refuse batches that cannot be cut into equal parts; `sizes` are those that an epoch will have."""
    uneven = sorted(size for size in sizes if size % processes)
    if uneven:
        raise ParamsError(
            f"{processes} processes take equal parts of each batch, but an epoch would have a batch of {uneven[0]} "
            f"images. Set train.batch_size to a multiple of {processes} and train.drop_last to true, or use another "
            "number of processes."
        )


def own(start: int, stop: int) -> slice:
    """This process's part of the rows `start` to `stop` of a batch, which is a multiple of `world`."""
    size = (stop - start) // world()
    return slice(start + rank() * size, start + (rank() + 1) * size)


def own_rows(whole: Tensor) -> Tensor:
    """This process's rows of a tensor that holds those of the whole batch."""
    return whole[own(0, len(whole))]


def gather(part: Tensor) -> Tensor:
    """(B / world, ...) of each process -> (B, ...) in the order of the batch, with gradient."""
    if world() == 1:
        return part
    whole: Tensor = _Gather.apply(part)  # type: ignore[no-untyped-call]
    return whole


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(world())]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous()
        dist.all_reduce(total)
        return own_rows(total)


def share(images: int) -> slice:
    """This process's block of a whole split. Blocks are of equal length, so the last ones may overlap."""
    size = -(-images // world())
    start = min(rank() * size, images - size)
    return slice(start, start + size)


def whole_split(block: Tensor, images: int) -> Tensor:
    """The blocks that `share` cut, put together again: (images, ...)."""
    if world() == 1:
        return block
    parts = gather(block).view(world(), *block.shape)
    # Every block but the overlapping last ones begins where the one before it ends.
    tail = [parts[r][max(0, (r + 1) * len(block) - images) :] for r in range(world())]
    return torch.cat(tail)


def average_gradients(parameters: Iterator[Parameter]) -> None:
    """Make each gradient the mean over the processes, in one message.

    Not DistributedDataParallel: it overlaps this with the backward pass, and in return wants to know which parameters
    a method leaves alone. These networks' gradients are a few megabytes.
    """
    if world() == 1:
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    dist.all_reduce(flat)
    flat /= world()
    for grad, mean in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
        grad.copy_(mean.view(grad.shape))


def totals(means: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Means (N,) over each process's part -> over the batch; a count () in each part -> in the batch."""
    if world() == 1:
        return means, count
    both = torch.cat([means / world(), count.to(means).view(1)])
    dist.all_reduce(both)
    return both[:-1], both[-1].to(count)


def anybody(flag: bool) -> bool:
    """Whether any process says so. By the host alone: an accelerator is not waited for."""
    if world() == 1:
        return flag
    said = torch.tensor(int(flag))
    dist.all_reduce(said, dist.ReduceOp.MAX)
    return bool(said.item())


def check_same(what: str, value: str) -> None:
    """Refuse to train where the processes differ in `value`. Raises TrainingError."""
    if world() == 1:
        return
    said: list[str | None] = [None] * world()
    dist.all_gather_object(said, value)
    different = [str(r) for r, other in enumerate(said) if other != said[0]]
    if different:
        raise TrainingError(
            f"the processes of this training differ in {what}: it is not the same as in process 0 in "
            f"these: {', '.join(different)}. "
            "All machines must hold the same project, data and resume folder (a shared disk, or equal copies)."
        )
