"""Which sizes of batches an epoch will have, and which of them a method cannot learn from."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.data.feed import batch_ends, ends_beside
from pipeline.devices import distributed
from pipeline.distillation.base import Method
from pipeline.distillation.batch import Batch
from pipeline.models.base import title
from pipeline.settings.training import Train
from pipeline.system.errors import ParamsError


def checked(objective: Method, images: int, settings: Train, processes: int) -> int:
    """What `fewest_images` says of an epoch of `images` labelled images, once it is known that every batch will do."""
    fewest = fewest_images(objective, min(of_epoch(images, settings, processes)), settings, processes)
    check(objective, min(of_epoch(images, settings, processes, fewest)), fewest)
    return fewest


def fewest_images(objective: Method, smallest: int, settings: Train, processes: int) -> int:
    """Fewest images of a batch, of all processes together; `smallest` is the smallest batch that there might be."""
    # Without synced statistics each process normalises its own part.
    parts = 1 if settings.sync_bn else processes
    return max(objective.smallest_batch, 2 * parts if smallest < 2 * parts and one_value(objective) else 1)


def of_epoch(images: int, settings: Train, processes: int, fewest: int = 1) -> set[int]:
    """The sizes of batches that an epoch of `images` labelled images will have; `fewest` is as in `feed.batch_ends`.

    Raises ParamsError where it has none, or one that the processes cannot share.
    """
    ends = [0, *batch_ends(images, settings.labelled_size, settings.drop_last, fewest)]
    if len(ends) == 1:
        raise ParamsError(
            f"an epoch of {images} images has no batch of {settings.labelled_size} with drop_last: true. Lower "
            "train.batch_size."
        )
    labelled, beside = (
        [end - start for start, end in pairwise(of_kind)]
        for of_kind in (ends, ends_beside(ends, settings.labelled_size, settings.unlabelled_size))
    )
    distributed.check_batches({*labelled, *beside}, processes)
    return {sum(batch) for batch in zip(labelled, beside, strict=True)}


@torch.no_grad()
def one_value(objective: Method) -> bool:
    """Whether a batch of one image would give a batch normalisation a single value, which is no statistic.

    That is so wherever a map of 1 x 1 meets a BN that uses the statistics of its batch, in the student, in what the
    method puts beside it, or in the teacher. Found out by two blank images; changes nothing and draws nothing.
    """
    borrowed = objective.teacher.modules() if objective.needs_teacher else ()
    norms = [module for module in objective.modules() if isinstance(module, _BatchNorm)]
    norms += [module for module in borrowed if isinstance(module, _BatchNorm) and _uses_batch(module)]
    seen: list[int] = []

    def look(norm: nn.Module, maps: tuple[Tensor, ...]) -> None:
        seen.append(maps[0].numel() // maps[0].shape[1] // len(maps[0]))

    hooks = [norm.register_forward_pre_hook(look) for norm in norms]
    training, none = objective.training, torch.zeros(2, dtype=torch.int64)
    images = torch.zeros(2, 3, objective.teacher_px, objective.teacher_px)
    # The class's own: whoever watches or compiles calls of this objective means steps of training.
    type(objective).forward(objective.eval(), Batch(images, none, torch.arange(2), progress=0, epoch=0, strong=images))
    objective.train(training)
    for hook in hooks:
        hook.remove()
    return 1 in seen


def check(objective: Method, smallest: int, fewest: int) -> None:
    """Refuse, before training, batches that the objective cannot work on.

    Args:
        objective: to be trained.
        smallest: images of the smallest batch that an epoch will have.
        fewest: that it takes: `smallest_batch`, or more where `one_value` is true.
    """
    if smallest < fewest:
        why = (
            ""
            if fewest == objective.smallest_batch
            else f" with {title(objective.student.spec)} at {objective.image_px} px, because one image gives its batch "
            "normalisation a single value"
        )
        raise ParamsError(
            f"{objective.name} needs at least {fewest} images in a batch{why}, but an epoch would have a batch of "
            f"{smallest}. Set train.batch_size to {fewest} or more, and train on at least as many images."
        )


def _uses_batch(norm: nn.Module) -> bool:
    """Whether a BN of a network in eval mode uses the statistics of the batch."""
    return norm.running_mean is None
