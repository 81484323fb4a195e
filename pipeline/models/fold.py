"""A network for inference alone: branches that only training needs are merged, and every BN that stands right behind a
convolution becomes part of it.

    BN(conv(x)) = (conv(x) - mean) * g + beta = conv'(x),  g = gamma / sqrt(var + eps), weight' = weight * g per channel

Exact but for rounding, and one pass over each map less. Which branches can be merged, a family knows
(`Classifier.merge_branches`).
"""

import copy
from itertools import pairwise

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.devices.precision import DepthwiseConv2d
from pipeline.models.base import Classifier


def folded(model: Classifier) -> Classifier:
    """A copy of `model` in eval mode with fewer layers, the same taps and the same logits; `model` stays as it is."""
    network = copy.deepcopy(model).eval()
    # A list: merging changes what modules() walks through.
    for part in [module for module in network.modules() if isinstance(module, Classifier)]:
        # A BN that reads the batch is no fixed scale and shift that a convolution could take over.
        if all(module.running_mean is not None for module in part.modules() if isinstance(module, _BatchNorm)):
            part.merge_branches()
    for parent in list(network.modules()):
        for conv_name, norm_name in _neighbours(parent):
            conv, norm = getattr(parent, conv_name), getattr(parent, norm_name)
            setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
            setattr(parent, norm_name, nn.Identity())
    return network


def _neighbours(parent: nn.Module) -> list[tuple[str, str]]:
    """Names of a convolution and the BN that alone reads it: as the family says, or one behind the other in a row."""
    pairs = list(getattr(parent, "conv_norms", ()))
    if isinstance(parent, nn.Sequential):
        names = list(parent._modules)
        pairs += pairwise(names)
    # Exactly these types: timm has subclasses that do more, such as a BN with its activation.
    return [
        (conv, norm)
        for conv, norm in pairs
        if type(getattr(parent, conv)) in (nn.Conv2d, DepthwiseConv2d)
        and type(getattr(parent, norm)) is nn.BatchNorm2d
        and getattr(parent, norm).track_running_stats
    ]
