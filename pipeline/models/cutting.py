"""Choose the student that is cut from its teacher: how much of it stays, and which blocks and channels that is.

A block that gives the shape that it takes adds to what it is given, so that the network still computes without it. One
block of each stage stays: the one that changes the shape, or the one that changes most.
"""

import copy
import math
from collections.abc import Callable, Iterable
from itertools import groupby, zip_longest

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models import base, pruned
from pipeline.models.base import Classifier, title
from pipeline.settings.networks import Pruned
from pipeline.system.errors import ParamsError

STEPS = 64
"""Shares that a search tries: no finer than the layers of usual networks are wide."""

_LAYERS = 2
"""Convolutions and matrix products of a residual block, at least."""
_Row = list[tuple[str, float]]
"""Blocks of one stage, which give the same shape: name, and |block(x) - x| / |x|, infinite if they change the shape."""


def student_of(
    network: Classifier,
    image_px: int,
    settings: Pruned,
    speedup_of: Callable[[Classifier], float],
    batches: Iterable[tuple[Tensor, Tensor]] = (),
    teacher_px: int | None = None,
    speed: str = "its speed",
) -> Classifier:
    """The largest student cut from `network` that has at most `share_of_macs`, or is at least `speedup` times as fast.

    image_px, teacher_px: height and width of the images that the student and `network` itself see; None: the same.
    `speedup_of` measures how many times as fast as `network` a candidate is, and `speed` names in an error what that is
    a multiple of. `batches` of (images, labels) show what its channels and blocks are worth. Without them magnitude
    decides, and blocks go evenly: all that one can say of a network that is not trained.

    Raises ParamsError for a target that no student reaches, with the nearest one, and as `cut` does.
    """
    cut_to = cutter(network, image_px, settings, batches)
    whole = base.count_macs(network, teacher_px or image_px)

    def share_of(candidate: Classifier) -> float:
        return base.count_macs(candidate, image_px) / whole

    share, times = settings.share_of_macs, settings.speedup
    measured = speedup_of if share is None else share_of

    def fits(candidate: Classifier) -> bool:
        return measured(candidate) >= (times or 1) if share is None else measured(candidate) <= share

    found = search(cut_to, fits)
    if found is None:
        asked = f"speedup is {times:g}" if share is None else f"share_of_macs is {share:g}"
        nearest = measured(cut_to(1 / STEPS))
        reached = f"{nearest:.2f} times {speed}" if share is None else f"{nearest:.3f} of its multiply-accumulates"
        least, way_out = (
            (f"with channels in multiples of {settings.round_to}", "lower round_to")
            if settings.cut == "channels"
            else ("with one block left of each stage", "set cut: channels")
        )
        raise ParamsError(
            f"params.yaml: student.pruned.{asked}, but {least} the smallest student of {title(network.spec)} has "
            f"{reached}. Ask for no more than that, or {way_out}."
        )
    return found


def cutter(
    network: Classifier, image_px: int, settings: Pruned, batches: Iterable[tuple[Tensor, Tensor]] = ()
) -> Callable[[float], Classifier]:
    """Share that is kept, in (0, 1] -> a student of `network`, which raises ParamsError as `cut` does.

    `batches` as for `student_of`.
    """
    if settings.cut == "channels" and settings.importance == "magnitude":
        return lambda kept: pruned.cut(network, image_px, kept, settings.round_to)
    scored, shown = copy.deepcopy(network), list(batches)
    if settings.cut == "blocks":
        order = order_of(scored, shown) if shown else even_order(scored, image_px)
        return lambda kept: pruned.shorten(network, image_px, kept, order)
    if shown:
        add_gradients(scored, shown)
    return lambda kept: pruned.cut(scored, image_px, kept, settings.round_to, by_gradient=bool(shown))


def search(cut_to: Callable[[float], Classifier], fits: Callable[[Classifier], bool]) -> Classifier | None:
    """The largest network that fits, by halving the range of shares that `cut_to` takes; None if none fits.

    `fits` is asked some seven times, and taken to hold for every smaller network once it holds.
    """
    found, too_small, too_large = None, 0, STEPS + 1
    while too_large - too_small > 1:
        middle = (too_small + too_large) // 2
        candidate = cut_to(middle / STEPS)
        if fits(candidate):
            found, too_small = candidate, middle
        else:
            too_large = middle
    return found


def order_of(network: Classifier, batches: Iterable[tuple[Tensor, Tensor]]) -> list[str]:
    """The blocks that can go, those first that change what they are given least: mean of |block(x) - x| / |x|.

    `batches` of (images, labels) show it; the labels do not matter.
    """
    rows = _rows(network, (images for images, _ in batches))
    return [name for name, _ in sorted((block for row in rows for block in _but_one(row)), key=lambda block: block[1])]


def even_order(network: Classifier, image_px: int) -> list[str]:
    """The same blocks for a network that is not trained: in turns from each row, its last block first."""
    rows = _rows(network, [base.blank(network, 1, image_px)])
    turns = zip_longest(*([name for name, _ in reversed(_but_one(row))] for row in rows))
    return [name for turn in turns for name in turn if name is not None]


def add_gradients(network: Classifier, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Leave in the parameters the gradient of the cross-entropy over all (images, labels) of `batches`."""
    network.eval().requires_grad_(True)
    with torch.enable_grad():
        for images, labels in batches:
            functional.cross_entropy(network(images), labels, reduction="sum").backward()  # type: ignore[no-untyped-call]


@torch.no_grad()
def _rows(network: Classifier, batches: Iterable[Tensor]) -> list[_Row]:
    """Every row of blocks, in the order of the pass. The network is left in eval mode."""
    seen: dict[str, tuple[object, list[Tensor]]] = {}

    def watch(name: str, given: object, came: object) -> None:
        if isinstance(given, Tensor) and isinstance(came, Tensor):
            ratios = torch.full((len(came),), torch.inf)
            if came.shape == given.shape:
                x, change = given.flatten(1).float(), (came - given).flatten(1).float()
                ratios = change.norm(dim=1) / x.norm(dim=1).clamp_min(torch.finfo(x.dtype).tiny)
            seen.setdefault(name, ((name.rpartition(".")[0], came.shape[1:]), []))[1].append(ratios)

    hooks = [
        block.register_forward_hook(lambda _, given, came, name=name: watch(name, given[0] if given else None, came))
        for name, block in _blocks(network)
    ]
    network.eval()
    try:
        for images in batches:
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [
        [(name, float(torch.cat(seen[name][1]).mean())) for name in row]
        for _, row in groupby(seen, key=lambda name: seen[name][0])
    ]


def _blocks(network: Classifier) -> list[tuple[str, nn.Module]]:
    """What stands in a row and has layers enough; of two that lie in each other, the inner one."""
    found = [
        (f"{name}.{number}", block)
        for name, row in network.named_modules()
        if isinstance(row, nn.Sequential | nn.ModuleList)
        for number, block in row.named_children()
        if sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in block.modules()) >= _LAYERS
    ]
    return [(name, block) for name, block in found if not any(other.startswith(f"{name}.") for other, _ in found)]


def _but_one(row: _Row) -> _Row:
    """What of a stage can go."""
    most = max(row, key=lambda block: block[1])
    return [block for block in row if block is not most and math.isfinite(block[1])]
