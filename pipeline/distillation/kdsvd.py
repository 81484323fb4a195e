"""KDSVD: let the main direction of the channels change from stage to stage as the teacher's does.

    X_i = F_i as a matrix (H * W, C_i) of one image, i = 1 .. n the stage
    t_i = first right singular vector of the teacher's X_i                              (C_i) its largest entry positive
    s_i = +-u, u the one among the first four right singular vectors of the student's
          X_i that lies nearest to t_i (largest |<u, t_i>|), + or - so that <s_i, t_i> >= 0                       (C_i)
    K_i = exp(-(v_i,c - v_i-1,d)^2 / 8) for all channels c and d, with v = s or t       (C_i, C_i-1)
    L   = ce_weight * CE + kl_weight * KL_T + change_weight * sum over i = 2 .. n of mean_b (sum_cd (K_s,i - K_t,i)^2)

F    `raw` taps (B, C_i, H, W) of student and teacher, with the same number of stages and of channels in each; H and W
     may differ: post-ReLU maps of a ResNet, residual sums of a WRN.
Nothing is trained beside the student and nothing is dropped.

WARNING: prefer another method. No published table of these pairs has a figure of it, the benchmark that it comes from
gives it no weight, and it needs an eigendecomposition in float64 of every map of every image in each step. Its gradient
exists only where singular values differ.

Lee, Kim, Song, "Self-supervised Knowledge Distillation Using Singular Value Decomposition", ECCV 2018,
arXiv:1807.06819. This is not the loss of the paper but the reduced one of the CRD benchmark (Tian et al., ICLR 2020),
for one singular vector; the weight 1 is that of a toolbox that took it over. There are two differences. The sign of a
singular vector is arbitrary, and the loss depends on the product of the signs of neighbouring stages, by a factor of 13
to 25 on the inputs of a test. So here the teacher's signs are fixed. The gradient of a singular vector divides by its
distance to every other singular value, which gives NaN where two are equal. Here pairs of singular values whose squares
differ by less than 1e-6 of the largest square are left out of the gradient.
"""

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, linalg

from pipeline.data.card import DataCard
from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch
from pipeline.models.base import Classifier, Features
from pipeline.system.errors import ParamsError

_CANDIDATES = 4
_EQUAL = 1e-6


class Config(base.Config):
    """Weights of the toolbox that took it over."""

    change_weight: Weight = 1.0
    """Weight of the squared distance between how the main directions change, summed over stages."""


class Method(base.Method):
    """Main directions of the channels, from stage to stage."""

    cuda_graphs: ClassVar[bool] = False  # eigh waits for the GPU, to look whether it converged

    def __init__(self, config: Config, student: Classifier, teacher: base.Teacher | None, card: DataCard) -> None:
        super().__init__(config, student, teacher, card)
        s, t = ([shape.channels for shape in sizes.stages] for sizes in self.shapes(card))
        if s != t:
            raise ParamsError(
                f"kdsvd compares the channels of the networks' stages one by one, but those of the student have {s} "
                f"channels and those of the teacher {t}. Choose networks with as many channels in each stage, such as "
                "resnet20 and resnet56, or another method."
            )

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl" and "change", the sum over stages."""
        vectors_t = [main_vectors(tap.raw) for tap in t.stages]
        vectors_s = [nearest_vectors(tap.raw, v) for tap, v in zip(s.stages, vectors_t, strict=True)]
        change = self.config.change_weight * change_distance(vectors_s, vectors_t).float()
        return super().terms(s, t, batch) | {"change": change}


def main_vectors(maps: Tensor) -> Tensor:
    """t of maps (B, C, H, W): (B, C), float64, without gradient."""
    vectors: Tensor = linalg.eigh(_products(maps.detach()))[1][:, :, -1]
    return vectors * vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()


def nearest_vectors(maps: Tensor, target: Tensor) -> Tensor:
    """s of maps (B, C, H, W) for t (B, C): (B, C), float64."""
    products = _products(maps)
    values, vectors = linalg.eigh(products.detach())  # in ascending order
    likeness = (target.unsqueeze(1) @ vectors).squeeze(1)
    candidates = likeness.clone()
    candidates[:, :-_CANDIDATES] = 0
    nearest = candidates.abs().argmax(1, keepdim=True)
    u = vectors.gather(2, nearest.unsqueeze(1).expand(-1, vectors.shape[1], -1))
    # What a small change of the products makes of u, to first order, is its gradient; the change itself is 0 here.
    gaps = values.gather(1, nearest) - values
    inverse = torch.where(gaps.abs() > _EQUAL * values[:, -1:], 1 / gaps, 0).unsqueeze(2)
    change = vectors @ (inverse * (vectors.transpose(1, 2) @ (products - products.detach()) @ u))
    found: Tensor = (u + change).squeeze(2) * likeness.gather(1, nearest).sign()
    return found


def change_distance(vectors_s: list[Tensor], vectors_t: list[Tensor]) -> Tensor:
    """sum over i of mean_b sum_cd (K_s,i - K_t,i)^2, from s and t (B, C_i) of each stage; a scalar."""
    kernels_s, kernels_t = ([_kernel(a, b) for a, b in pairwise(vectors)] for vectors in (vectors_s, vectors_t))
    terms = [(k_s - k_t).square().sum((1, 2)).mean() for k_s, k_t in zip(kernels_s, kernels_t, strict=True)]
    return torch.stack(terms).sum()


def _kernel(before: Tensor, after: Tensor) -> Tensor:
    return (-(after.unsqueeze(2) - before.unsqueeze(1)).square() / 8).exp()


def _products(maps: Tensor) -> Tensor:
    # X^T X: its eigenvectors are the right singular vectors of X, its eigenvalues the squares of X's singular values.
    x = maps.flatten(2).double()
    return x @ x.transpose(1, 2)
