"""Pruned: a network with whole channels taken out, as many as a budget asks for: the student cut from its teacher.

    spec  {"arch": "pruned", "num_classes": K, "body": the whole network's spec, "image_px": of the traced pass,
          "history": [[layer, whether of its outputs, channels], ...]}

torch-pruning finds what hangs together (the layers on both sides of a channel, the BN between, all that is added to the
same sum) and takes it out of all of them; its history is replayed on a fresh `body` to build the network again. Depth,
taps, map sizes and the classes of the head stay, so that a method sees a network of the body's family.

Every layer keeps the same share of its channels, in multiples of `round_to` and at least that many: so the sizes depend
on the share alone, never on weights, and a fresh network tells how fast a trained one will be. Which channels stay is
a matter of scores: those with the largest weights, or the largest product of weight and gradient (Taylor).

Fang, Ma, Song, Mi, Wang, "DepGraph: Towards Any Structural Pruning", CVPR 2023, arXiv:2301.12900; the library is
github.com/VainF/Torch-Pruning. Molchanov, Mallya, Tyree, Frosio, Kautz, "Importance Estimation for Neural Network
Pruning", CVPR 2019, for the Taylor scores.
"""

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models import base
from pipeline.models.base import Classifier, title
from pipeline.settings.networks import Pruned
from pipeline.system.errors import CheckpointError, ParamsError

PACKAGES = ("torch-pruning",)

STEPS = 64
"""Shares of channels that a search tries: no finer than the layers of usual networks are wide."""


def build(spec: base.Spec) -> Classifier:
    """The body with the channels of the history taken out, with fresh weights.

    Raises ParamsError for a spec that names no body, CheckpointError for a history that does not fit it.
    """
    if "body" not in spec:
        raise ParamsError(
            "'pruned' is not a network to train from the start: it is cut from a trained teacher, as student.arch. "
            "Choose another network, or set teacher.weights to the file of one."
        )
    network = base.build(spec["body"])
    if spec["history"]:
        try:
            _check_history(network, spec["history"])
            _graph(network, spec["image_px"]).load_pruning_history(copy.deepcopy(spec["history"]))
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"what was pruned does not fit a {title(spec['body'])} ({type(error).__name__}: {error}). The file was "
                "made by another version of that network, or is damaged: cut and train the student again."
            ) from error
    return _named(network, spec)


def cut(network: Classifier, image_px: int, kept: float, round_to: int, by_gradient: bool = False) -> Classifier:
    """A copy of `network` with the share `kept` of each layer's channels, in (0, 1], rounded down to `round_to`.

    A layer with fewer channels than `round_to` is left whole. `by_gradient`: scores are Taylor's, from the gradients
    that the parameters hold; otherwise magnitudes. `network` stays as it is.

    Raises ParamsError where the network is itself pruned, or cannot be pruned.
    """
    # It takes seconds to import, and most runs prune nothing.
    from torch_pruning.pruner import importance
    from torch_pruning.pruner.algorithms.base_pruner import BasePruner

    if network.spec["arch"] == "pruned":
        raise ParamsError(
            "the teacher is a pruned network itself, and its student cannot be cut from it once more. Take the network "
            "that it was cut from as teacher, with a smaller share_of_macs; or choose another student.arch."
        )
    body = copy.deepcopy(network).eval()
    for mine, theirs in zip(body.parameters(), network.parameters(), strict=True):
        mine.requires_grad_(True)
        mine.grad = None if theirs.grad is None else theirs.grad.clone()
    try:
        with torch.enable_grad(), _quietly():
            pruner = BasePruner(
                body,
                base.blank(body, 1, image_px),
                importance=importance.GroupTaylorImportance()
                if by_gradient
                else importance.GroupMagnitudeImportance(p=2),
                pruning_ratio=0.0,
                pruning_ratio_dict=_ratios(body, kept, round_to),
                ignored_layers=[body.fc],
            )
            pruner.step()
        history = [[layer, out, [int(i) for i in channels]] for layer, out, channels in pruner.pruning_history()]
        spec = {
            "arch": "pruned",
            "num_classes": network.spec["num_classes"],
            "body": dict(network.spec),
            "image_px": image_px,
            "history": history,
        }
        _named(body, spec)
        base.shapes(body, image_px)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError, ParamsError) as error:
        raise ParamsError(
            f"{title(network.spec)} cannot be pruned ({type(error).__name__}: {error}). Choose another student.arch, "
            "or a teacher made of convolutions."
        ) from error
    body.zero_grad(set_to_none=True)
    return body


def student_of(
    network: Classifier,
    image_px: int,
    settings: Pruned,
    speedup_of: Callable[[Classifier], float],
    by_gradient: bool = False,
) -> Classifier:
    """The largest student cut from `network` that has at most `share_of_macs`, or is at least `speedup` times as fast.

    `speedup_of` measures how many times as fast as `network` a candidate is; see `cut` for `by_gradient`.

    Raises ParamsError for a target that no student reaches, with the nearest one, and as `cut` does.
    """

    def cut_to(kept: float) -> Classifier:
        return cut(network, image_px, kept, settings.round_to, by_gradient)

    whole = base.count_macs(network, image_px)

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
        reached = f"{nearest:.2f} times its speed" if share is None else f"{nearest:.3f} of its multiply-accumulates"
        raise ParamsError(
            f"params.yaml: student.pruned.{asked}, but with channels in multiples of {settings.round_to} the smallest "
            f"student of {title(network.spec)} has {reached}. Ask for no more than that, or lower round_to."
        )
    return found


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


def add_gradients(network: Classifier, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Leave in the parameters the gradient of the cross-entropy over all (images, labels) of `batches`."""
    network.eval().requires_grad_(True)
    with torch.enable_grad():
        for images, labels in batches:
            functional.cross_entropy(network(images), labels, reduction="sum").backward()  # type: ignore[no-untyped-call]


def _ratios(network: Classifier, kept: float, round_to: int) -> dict[nn.Module | tuple[nn.Module], float]:
    """Which share of its output channels each layer loses."""
    ratios: dict[nn.Module | tuple[nn.Module], float] = {}
    for module in network.modules():
        channels = getattr(module, "out_channels", getattr(module, "out_features", None))
        if channels is not None and module is not network.fc:
            keep = max(int(channels * kept) // round_to * round_to, min(channels, round_to))
            # The library rounds what is left down: a millionth keeps the product from falling just below.
            ratios[module] = (channels - keep) / channels - 1e-6 if keep < channels else 0.0
    return ratios


def _check_history(network: Classifier, history: Any) -> None:
    """The library takes what it is given; a file may come from anywhere. Channels are numbered as if none had gone."""
    for layer, _, channels in history:
        weight = network.get_parameter(f"{layer}.weight")
        if len(set(channels)) != len(channels) or not all(0 <= channel < len(weight) for channel in channels):
            raise ValueError(f"{layer} has {len(weight)} channels, and {channels} are to go")


def _graph(network: Classifier, image_px: int) -> Any:
    import torch_pruning

    for parameter in network.parameters():
        parameter.requires_grad_(True)
    with torch.enable_grad(), _quietly():
        training = network.training
        graph = torch_pruning.DependencyGraph().build_dependency(network.eval(), base.blank(network, 1, image_px))
        network.train(training)
    return graph


def _named(network: Classifier, spec: base.Spec) -> Classifier:
    network.spec = spec
    network.measure_again()
    return network


class _quietly(warnings.catch_warnings):
    """Parameters outside of layers, such as ConvNeXt's scales, are cut along their last axis, which is the channels."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", message="Unwrapped parameters detected")
