"""Pruned: a network with whole channels or blocks taken out, as many as a budget asks for: cut from its teacher.

    spec  {"arch": "pruned", "num_classes": K, "body": the whole network's spec, "image_px": of the traced pass,
          "history": [[layer, whether of its outputs, channels], ...], "blocks": [name, ...]}

torch-pruning finds what hangs together (the layers on both sides of a channel, the BN between, all that is added to the
same sum) and takes it out of all of them; its history is replayed on a fresh `body` to build the network again. Depth,
taps, map sizes and the classes of the head stay, so that a method sees a network of the body's family.

Every layer keeps the same share of its channels, in multiples of `round_to` and at least that many: so the sizes depend
on the share alone, never on weights, and a fresh network tells how fast a trained one will be. Which channels stay is
a matter of scores: those with the largest weights, or the largest product of weight and gradient (Taylor). Which blocks
go, and how large a share stays, is decided in `cutting`.

Fang, Ma, Song, Mi, Wang, "DepGraph: Towards Any Structural Pruning", CVPR 2023, arXiv:2301.12900; the library is
github.com/VainF/Torch-Pruning. Molchanov, Mallya, Tyree, Frosio, Kautz, "Importance Estimation for Neural Network
Pruning", CVPR 2019, for the Taylor scores.
"""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from pipeline.models import base
from pipeline.models.base import Classifier, title
from pipeline.system.errors import CheckpointError, ParamsError

PACKAGES = ("torch-pruning",)

_CANNOT = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError, ParamsError)
"""What torch-pruning and a changed network may raise."""


def build(spec: base.Spec) -> Classifier:
    """The body without the blocks, and without the channels of the history, with fresh weights.

    Raises ParamsError for a spec that names no body, CheckpointError for a history that does not fit it.
    """
    if "body" not in spec:
        raise ParamsError(
            "'pruned' is not a network to train from the start: it is cut from a trained teacher, as student.arch. "
            "Choose another network, or set teacher.weights to the file of one."
        )
    network = base.build(spec["body"])
    try:
        remove(network, spec.get("blocks", ()))
        if spec["history"]:
            _check_history(network, spec["history"])
            _graph(network, spec["image_px"]).load_pruning_history(copy.deepcopy(spec["history"]))
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
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

    _check_whole(network)
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
        _named(body, _spec(network, image_px, history=history))
        base.shapes(body, image_px)
    except _CANNOT as error:
        raise _not_prunable(network, error) from error
    body.zero_grad(set_to_none=True)
    return body


def shorten(network: Classifier, image_px: int, kept: float, order: Sequence[str]) -> Classifier:
    """A copy of `network` with the share `kept`, in (0, 1], of the blocks that can go; the first of `order` go first.

    `network` stays as it is. Raises ParamsError as `cut` does.
    """
    _check_whole(network)
    names = list(order[: len(order) - int(len(order) * kept)])
    body = copy.deepcopy(network).eval()
    try:
        remove(body, names)
        _named(body, _spec(network, image_px, blocks=names))
        base.shapes(body, image_px)
    except _CANNOT as error:
        raise _not_prunable(network, error) from error
    return body


def remove(network: Classifier, names: Sequence[str]) -> None:
    """Take the blocks out, which are named as before any went; the others keep their order.

    Raises AttributeError for a name of which the network has no block, ValueError where a row would have none left.
    """
    blocks = [(network.get_submodule(name.rpartition(".")[0]), network.get_submodule(name)) for name in names]
    for row, block in blocks:
        if not isinstance(row, nn.Sequential | nn.ModuleList):
            raise AttributeError(f"{type(row).__name__} is no row of blocks")
        if len(row) == 1:
            raise ValueError(f"nothing would be left where {names} go")
        del row[list(row).index(block)]
    network.measure_again()


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


def _check_whole(network: Classifier) -> None:
    if network.spec["arch"] == "pruned":
        raise ParamsError(
            "the teacher is a pruned network itself, and its student cannot be cut from it once more. Take the network "
            "that it was cut from as teacher, with a smaller share_of_macs; or choose another student.arch."
        )


def _spec(network: Classifier, image_px: int, history: Sequence[Any] = (), blocks: Sequence[str] = ()) -> base.Spec:
    return {
        "arch": "pruned",
        "num_classes": network.spec["num_classes"],
        "body": dict(network.spec),
        "image_px": image_px,
        "history": list(history),
        "blocks": list(blocks),
    }


def _not_prunable(network: Classifier, error: Exception) -> ParamsError:
    return ParamsError(
        f"{title(network.spec)} cannot be pruned ({type(error).__name__}: {error}). Choose another student.arch, or a "
        "teacher made of convolutions."
    )


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
