"""timm: any network of the timm library, named timm/NAME (timm/resnet18, timm/convnext_tiny.fb_in1k, ...).

Needs of the network: a classifier that is one nn.Linear, and timm's `forward_intermediates`. timm shows each place in
one form, so raw = pre = act: the map as timm hands it out, which may hold negatives (ConvNeXt, SiLU networks, ViTs).

    stages   the deepest map of each reduction from 4 on (of most networks four); where all maps have one reduction, as
             in a ViT, the maps at the ends of four equal parts
    blocks   the stages: single blocks are not to be seen (`has_block_taps`)
    stem     the shallowest map: behind the stem, or the first stage again where timm shows nothing earlier
    pooled   what the classifier reads, as timm makes it: a network may have more than an average before it
    spec     {"arch": "timm/NAME", "num_classes": K}; with "image_px" too, a network that takes images of one size alone
             (ViT, Swin, MLP-Mixer) is made for that size, not for timm's own. timm fits its pretrained weights to it

What of this holds is measured when a network is built, by one pass of noise at the size it was made for, never looked
up by name. Wightman, "PyTorch Image Models", github.com/huggingface/pytorch-image-models. A name's pretrained weights
may change with timm's version.
"""

import functools
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import huggingface_hub
import timm
import torch
from huggingface_hub import constants
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

from pipeline.models import base
from pipeline.models.base import Features, Tap
from pipeline.settings.data import Normalization
from pipeline.system.errors import CheckpointError, ParamsError
from pipeline.system.registry import nearest

PACKAGES = ("timm",)
"""Their versions are part of this family's code."""

_SECONDS = 5.0


def build(spec: base.Spec) -> "Timm":
    """A timm network with fresh weights. Raises ParamsError for a name that timm does not know or that does not fit."""
    name = _name(spec["arch"])
    try:
        network = timm.create_model(name, pretrained=False, **_arguments(spec))
    except (AssertionError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        if "image_px" in spec:
            raise _not_for(spec, error) from error
        raise
    return Timm(spec, network)


def build_pretrained(spec: base.Spec) -> "Timm":
    """The same with timm's pretrained weights, from the cache or from the network.

    The classifier is fresh, but where the weights are of as many classes: then it is theirs.

    Raises CheckpointError where the weights cannot be had, within seconds where there is no network.
    """
    name = _name(spec["arch"])
    failed = None
    try:
        with _one_try() as failed:
            network = timm.create_model(name, pretrained=True, **_arguments(spec))
    except Exception as error:  # of the hub, of its HTTP client, of urllib, or timm's own
        first = failed or error
        cause = (str(first) or type(first).__name__).splitlines()[0].rstrip(".")
        raise CheckpointError(
            f"the pretrained weights of {spec['arch']} are not in the cache ({constants.HF_HUB_CACHE}) and could not "
            f"be fetched from {constants.ENDPOINT} ({cause}). Run this once on a machine with access to the network; "
            "or copy the cache from such a machine and set HF_HOME to where it lies (TORCH_HOME for the few weights "
            "that are not on the Hub); or set pretrained to false."
        ) from error
    config: Any = network.pretrained_cfg
    tag = ".".join(filter(None, (config["architecture"], config.get("tag"))))
    print(f"pretrained weights timm/{tag}, licence {config.get('license') or 'not stated'}", file=sys.stderr)
    return Timm(spec, network)


@functools.cache
def must_be_made_for(arch: str, image_px: int) -> bool:
    """Whether the network, as timm makes it by default, takes no images of that size, but can be made for another.

    Found out by a pass without numbers, and only of networks of which timm says that their size is fixed: it says so of
    many that take others all the same.
    """
    name = _name(arch)
    config = timm.models.get_pretrained_cfg(name)
    if config is None or not config.fixed_input_size or config.input_size[-1] == image_px:
        return False
    # What is drawn for weights must not depend on whether this was asked.
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        try:
            timm.create_model(name, pretrained=False, num_classes=1).eval()(torch.zeros(1, 3, image_px, image_px))
        except (AssertionError, RuntimeError, ValueError):
            return True
    return False


def has_pretrained(arch: str) -> bool:
    """Whether timm names weights for it; says nothing of the network."""
    config = timm.models.get_pretrained_cfg(_name(arch))
    return config is not None and config.has_weights


def normalization(arch: str) -> Normalization | None:
    """What the weights that timm names for it need, fetched or not; None where it names none."""
    config = timm.models.get_pretrained_cfg(_name(arch))
    return Normalization(mean=config.mean, std=config.std) if config is not None else None


def matching(arch: str) -> list[str]:
    """The networks that a name means, which may have wildcards (timm/mobilenetv3_*), whether or not they fit here.

    Raises ParamsError, with the nearest, where timm knows none.
    """
    pattern = arch.partition("/")[2]
    if not any(sign in pattern for sign in "*?["):
        return [f"timm/{_name(arch)}"]
    if not (found := timm.list_models(pattern)):
        known = [f"timm/{one}" for one in timm.list_models()]
        raise ParamsError(
            f"timm {timm.__version__} has no network '{arch}'{nearest(arch.rstrip('*?'), known)}. "
            "python -c \"import timm; print(timm.list_models('*resnet*'))\" lists some."
        )
    return [f"timm/{name}" for name in found]


class Timm(base.Classifier):
    """Puts the contract around a network that timm made."""

    has_block_taps = False

    def __init__(self, spec: base.Spec, net: Any) -> None:
        super().__init__()
        self.spec = spec
        self.net = net
        if "image_px" in spec and (rest := spec["image_px"] % _patch_px(net)):
            raise _not_for(spec, ValueError(f"of which its patches of {_patch_px(net)} px leave {rest} px unseen"))
        if not isinstance(net.get_classifier(), nn.Linear):
            raise _unfit(spec, f"its classifier is a {type(net.get_classifier()).__name__}, not one nn.Linear")
        if not (hasattr(net, "forward_intermediates") and hasattr(net, "feature_info")):
            raise _unfit(spec, "timm does not show its stages")
        for module in net.modules():
            if getattr(module, "inplace", False):
                # An activation in place would rewrite a tap that was handed out before.
                module.inplace = False
        infos = getattr(net.feature_info, "info", net.feature_info)
        stages = _stages([info["reduction"] for info in infos])
        self.stage_ends = tuple(range(len(stages)))
        self._indices = sorted({0, *stages})
        self._map_channels = 0
        self.measure_again()

    @property
    def fc(self) -> nn.Linear:  # type: ignore[override]  # timm's own place for it decides
        """timm's classifier, wherever the network keeps it."""
        classifier: nn.Linear = self.net.get_classifier()
        return classifier

    @property
    def map_channels(self) -> int:
        """Of the last stage, which is not always what the classifier reads."""
        return self._map_channels

    def walk(self, images: Tensor) -> Iterator[Tap]:
        """The stem's map, then one of each stage."""
        with self._naming_the_size(images):
            maps = self.net.forward_intermediates(images, self._indices, output_fmt="NCHW", intermediates_only=True)
        maps[-1] = self.neck(maps[-1])
        for one in (maps[0], *maps[-len(self.stage_ends) :]):
            yield Tap(one, one, one)

    def drop_head(self) -> None:
        """All that comes behind the last stage: what follows the last map, as well as the classifier."""
        self.net.prune_intermediate_layers(1, prune_norm=True, prune_head=True)

    def forward(self, images: Tensor) -> Tensor:
        """logits (B, K)."""
        final, _ = self._run(images, self._indices[-1:])
        return self._classify(self._pooled(final))

    def features(self, images: Tensor) -> Features:
        """The same pass as `forward`, with a map of each stage kept."""
        final, maps = self._run(images, self._indices)
        stem, *stages = (Tap(one, one, one) for one in (maps[0], *maps[-len(self.stage_ends) :]))
        pooled = self._pooled(final)
        return Features(stem, tuple(stages), tuple(stages), pooled, self._classify(pooled))

    def _run(self, images: Tensor, indices: list[int]) -> tuple[Tensor, list[Tensor]]:
        with self._naming_the_size(images):
            final, maps = self.net.forward_intermediates(images, indices, output_fmt="NCHW")
        # Elsewhere layers stand between the two, out of reach: no neck runs there, and who needs one finds out.
        if final is maps[-1]:
            final = maps[-1] = self.neck(final)
        return final, maps

    def _pooled(self, final: Tensor) -> Tensor:
        # Averaged, and read by the classifier, in float32.
        return _float32(self.net.forward_head(_float32(final), pre_logits=True))

    def merge_branches(self) -> None:
        """As the modules of timm themselves say (RepVGG, MobileOne, FastViT, GhostNetV3, ...)."""
        reparameterize_model(self.net, inplace=True)

    @contextmanager
    def _naming_the_size(self, images: Tensor) -> Iterator[None]:
        # timm asserts nothing in a pass but sizes.
        try:
            yield
        except AssertionError as error:
            raise ParamsError(
                f"{self.spec['arch']} cannot take images of {images.shape[2]} x {images.shape[3]} px "
                f"({str(error).rstrip('.') or 'no reason is given'}). It is made for {self._made_for()} px: give it "
                "images of that size, or choose another network."
            ) from error

    def _made_for(self) -> int:
        return int(self.spec.get("image_px") or self.net.pretrained_cfg["input_size"][-1])

    @torch.no_grad()
    def measure_again(self) -> None:
        """See that pooled and `fc` are all there is to the logits, and whether pooled is a plain average."""
        self.net.eval()
        # Of its own: the numbers that training draws must not depend on it.
        generator = torch.Generator().manual_seed(0)
        try:
            images = torch.rand(1, 3, self._made_for(), self._made_for(), generator=generator)
            final, maps = self.net.forward_intermediates(images, self._indices, output_fmt="NCHW")
            pooled = self.net.forward_head(final, pre_logits=True)
            came, expected = self.fc(pooled), self.net(images)
        except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            if "image_px" in self.spec:
                raise _not_for(self.spec, error) from error
            raise _unfit(self.spec, f"timm does not show its stages as it does those of others ({error})") from error
        self.net.train()
        self._map_channels = maps[-1].shape[1]
        # The limits are below what a fresh BN changes (1 / sqrt(1 + eps)), and above what the order of a sum does.
        if came.shape != expected.shape or not torch.allclose(came, expected, rtol=0, atol=1e-6 * _largest(expected)):
            raise _unfit(self.spec, "more than one nn.Linear stands behind its pooled features")
        average, scale = maps[-1].mean((2, 3)), maps[-1].abs().mean((2, 3))
        self.fc_reads_average = pooled.shape == average.shape and bool(((pooled - average).abs() <= 1e-6 * scale).all())
        self.neck_feeds_pooling = self.fc_reads_average and final is maps[-1]


def _patch_px(net: Any) -> int:
    """Height of the patches that a network cuts an image into; 1 where it cuts none. What is left over timm drops."""
    size: Any = getattr(getattr(net, "patch_embed", None), "patch_size", 1)
    return int(size[0] if isinstance(size, tuple) else size)


def _arguments(spec: base.Spec) -> dict[str, Any]:
    """What timm is told beside the name."""
    size = {"img_size": spec["image_px"]} if "image_px" in spec else {}
    return {"num_classes": spec["num_classes"], **size}


def _not_for(spec: base.Spec, error: Exception) -> ParamsError:
    """What to say of a size that a network was told, and that it cannot be made for."""
    px, config = spec["image_px"], timm.models.get_pretrained_cfg(_name(spec["arch"]))
    assert config is not None, "a size is only told where timm's own is known"
    why = str(error).rstrip(".") or "no reason is given"
    return ParamsError(
        f"{spec['arch']} cannot be made for images of {px} x {px} px ({why}). By itself it is made "
        f"for {config.input_size[-1]} px: give it images of that size, or choose another network."
    )


def _unfit(spec: base.Spec, why: str) -> ParamsError:
    return ParamsError(
        f"{spec['arch']} cannot be used here: {why}. Choose another network of timm, such as timm/resnet18 or "
        "timm/mobilenetv3_small_100."
    )


def _name(arch: str) -> str:
    """timm's name of it. Raises ParamsError, with the nearest, for one that timm does not know."""
    name = arch.partition("/")[2]
    plain, _, tag = name.partition(".")
    known = timm.list_models()
    if plain not in known:
        raise ParamsError(
            f"there is no '{arch}'{nearest(arch, [f'timm/{one}' for one in known])}. timm {timm.__version__} has "
            f"{len(known)} networks: python -c \"import timm; print(timm.list_models('*resnet*'))\" lists some."
        )
    tagged = timm.list_models(f"{plain}.*", pretrained=True)
    if tag and name not in tagged:
        raise ParamsError(
            f"there is no '{arch}'{nearest(arch, [f'timm/{one}' for one in tagged])}: timm knows no weights '{tag}' "
            f"of {plain}. Leave out the part after the dot to get the usual ones."
        )
    return name


def _stages(reductions: list[int]) -> list[int]:
    """Which of a network's maps are its stages, from how many times smaller than the image each is."""
    if len(set(reductions)) == 1:
        quarters = [round(part * len(reductions) / 4) for part in range(5)]
        return [end - 1 for start, end in pairwise(quarters) if end > start]
    return sorted({reduction: index for index, reduction in enumerate(reductions) if reduction >= 4}.values())


def _float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype is torch.bfloat16 else x


def _largest(x: Tensor) -> float:
    return float(x.abs().max())


@contextmanager
def _one_try() -> Iterator[Exception | None]:
    """Ask the hub once, briefly, whether it is there; if not, only its cache is read, without one more try.

    Yields why it could not be asked.

    By itself its client tries each file for most of a minute where there is no network, cached or not.
    """
    before, timeout = constants.HF_HUB_OFFLINE, socket.getdefaulttimeout()
    failed: Exception | None = None
    try:
        answer = huggingface_hub.get_session().head(constants.ENDPOINT, timeout=_SECONDS)
        # Below that, a mirror may refuse or redirect this question and have the weights all the same.
        if answer.status_code >= 500:
            answer.raise_for_status()
    except Exception as error:  # whatever its HTTP client raises
        failed = error
    constants.HF_HUB_OFFLINE = before or failed is not None
    # The few weights that lie elsewhere come through urllib, which by default waits without end.
    socket.setdefaulttimeout(_SECONDS)
    try:
        yield failed
    finally:
        constants.HF_HUB_OFFLINE = before
        socket.setdefaulttimeout(timeout)
