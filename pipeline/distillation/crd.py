"""CRD: tell an image's own embedding by the other network from those of images of other classes.

    e_s = unit(Linear(h_s)), e_t = unit(Linear(h_t))                      (B, D)
    o_s[b, j] = exp(<M_t[j], e_s[b]> / tau) / Z_s, for j = p_b and K others;    o_t from M_s, e_t and Z_t alike
    nce(o) = - mean_b (log(o_pos / (o_pos + K / N + 1e-7)) + sum_neg log((K / N) / (o_neg + K / N + 1e-7)))
    L = ce_weight * CE + kl_weight * KL_T + contrast_weight * (nce(o_s) + nce(o_t))
    M_s[p_b] <- unit(m * M_s[p_b] + (1 - m) * e_s[b]), M_t alike, after each step's loss, without gradient

h_s, h_t  `pooled` (B, D_s), (B, D_t); D `embedding_dim`; tau `contrast_temperature`; m `bank_momentum`.
M_s, M_t  (N, D) banks: a running embedding of each of the N training images; at first uniform with norms around 1.
p_b       position of image b in the training set. K = `num_negatives` others are drawn from other classes.
Z_s, Z_t  N * mean(o), taken once from the first training batch; -1 says "not yet".
Trained beside the student: both Linears, the teacher's too. All are dropped; the resume state keeps banks and Z.

Tian, Krishnan, Isola, "Contrastive Representation Distillation", ICLR 2020, arXiv:1910.10699. Defaults are those of
the official benchmark. There are two differences. Negatives are drawn on the device, uniformly and with replacement;
the official data set draws them on the host, without replacement if there are enough. K is lowered to the number of
images outside the largest class if that is below `num_negatives`. All N products with a bank are computed, and the
wanted ones are picked. This reads the bank once, while gathering K rows for each image would move B * K * D numbers.
The cost is N * D * 8 bytes of banks, in memory and in the resume state, and B * N * 4 bytes twice in a step. In eval
mode banks and Z stay as they are, and the negatives are the same at every call.
"""

import sys
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.data.card import DataCard
from pipeline.devices import distributed
from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch
from pipeline.distillation.blocks import unit
from pipeline.models.base import Classifier, Features
from pipeline.system.errors import ParamsError

_EPS = 1e-7
_LARGE_BYTES = 10**9


class Config(base.Config):
    """Weights of the official CIFAR-100 code."""

    contrast_weight: Weight = 0.8
    """Weight of both contrasts together: student against the teacher's bank, and teacher against the student's."""
    embedding_dim: Annotated[int, Field(ge=2)] = 128
    """D, the dimension of the space in which embeddings are compared."""
    num_negatives: Annotated[int, Field(ge=1)] = 16384
    """K, the number of images of other classes that each image is compared with. It is lowered if there are fewer."""
    contrast_temperature: Annotated[float, Field(gt=0)] = 0.07
    """tau, the temperature of the contrast. The smaller it is, the more the nearest negatives count."""
    bank_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """m, the share of its old embedding that an image keeps in the bank."""


class Method(base.Method):
    """Contrast with memory banks."""

    takes_mixed: ClassVar[bool] = False
    cuda_graphs: ClassVar[bool] = False  # banks and Z are outputs of the step before
    reads = ("logits", "pooled")

    order: Tensor
    start: Tensor
    size: Tensor

    def __init__(self, config: Config, student: Classifier, teacher: base.Teacher | None, card: DataCard) -> None:
        super().__init__(config, student, teacher, card)
        self.num_images = card.counts["train"]
        s, t = self.shapes(card)
        self.contrast = Contrast(s.pooled, t.pooled, self.num_images, config)
        for name in ("order", "start", "size"):
            self.register_buffer(name, torch.empty(0, dtype=torch.int64), persistent=False)
        # Until the labels are known, every image is a class of its own.
        self.begin(torch.arange(self.num_images))

    def begin(self, labels: Tensor) -> None:
        """Sort the training set by class, so that a class is one block that a draw can step over.

        Raises ParamsError where the labels (N,) are not those of the card's training set, or all the same.
        """
        if len(labels) != self.num_images:
            raise ParamsError(
                f"crd keeps an embedding for each of the {self.num_images} training images of the data card, but the "
                f"training set has {len(labels)}. Run `dvc repro prepare`, so that card and images agree."
            )
        counts = labels.bincount()
        self.num_negatives = min(self.config.num_negatives, len(labels) - int(counts.max()))
        if self.num_negatives == 0:
            raise ParamsError(
                f"crd contrasts an image with images of other classes, but all {len(labels)} training images are of "
                "one class. Remove crd from distill.methods, or use data with at least two classes."
            )
        self.order = labels.argsort(stable=True)
        self.start = (counts.cumsum(0) - counts)[labels]
        self.size = counts[labels]

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl" and "contrast"."""
        # Banks and draws of every process are those of the whole batch.
        pooled_s, pooled_t, positions = map(distributed.gather, (s.pooled, t.pooled, batch.positions))
        contrast = self.contrast(pooled_s, pooled_t, positions, self.negatives(positions))
        return super().terms(s, t, batch) | {"contrast": self.config.contrast_weight * contrast}

    def negatives(self, positions: Tensor) -> Tensor:
        """(B, K) positions of images of other classes than those at `positions` (B,)."""
        generator = None if self.training else torch.Generator(positions.device).manual_seed(0)
        start, size = self.start[positions].unsqueeze(1), self.size[positions].unsqueeze(1)
        shape = (len(positions), self.num_negatives)
        # A large number modulo the room: uniform to 1e-12 or better, and each row has a room of its own.
        drawn = torch.randint(2**62, shape, generator=generator, device=positions.device) % (self.num_images - size)
        return self.order[drawn + size * (drawn >= start)]


class Contrast(nn.Module):
    """Embeddings and banks: pooled features of a batch -> the contrast of both networks, a scalar.

    Args:
        pooled_s: D_s.
        pooled_t: D_t.
        num_images: N.
        config: sizes and temperature.
    """

    bank_s: Tensor
    bank_t: Tensor
    z_s: Tensor
    z_t: Tensor

    def __init__(self, pooled_s: int, pooled_t: int, num_images: int, config: Config) -> None:
        super().__init__()
        self.config = config
        self.num_images = num_images
        dim = config.embedding_dim
        if (size := 2 * 4 * num_images * dim) > _LARGE_BYTES:
            print(
                f"crd keeps two embeddings of {dim} numbers for each of {num_images:,} training images: "
                f"{size / 1e9:.1f} GB of the device's memory, and as much on disk each time an epoch's state is "
                "saved. A smaller distill.methods.crd.embedding_dim needs less.",
                file=sys.stderr,
            )
        self.embed_s, self.embed_t = nn.Linear(pooled_s, dim), nn.Linear(pooled_t, dim)
        bound = (3 / dim) ** 0.5
        for network in ("s", "t"):
            self.register_buffer(f"bank_{network}", torch.empty(num_images, dim).uniform_(-bound, bound))
            self.register_buffer(f"z_{network}", torch.tensor(-1.0))

    def forward(self, h_s: Tensor, h_t: Tensor, positions: Tensor, negatives: Tensor) -> Tensor:
        """h_s (B, D_s), h_t (B, D_t), positions (B,), negatives (B, K); in train mode banks and Z move on."""
        e_s, e_t = unit(self.embed_s(h_s)), unit(self.embed_t(h_t))
        columns = torch.cat([positions.unsqueeze(1), negatives], 1)
        o_s, o_t = self._scores(e_s, self.bank_t, columns), self._scores(e_t, self.bank_s, columns)
        z_s, z_t = self._constant(self.z_s, o_s), self._constant(self.z_t, o_t)
        loss = nce(o_s / z_s, self.num_images) + nce(o_t / z_t, self.num_images)
        if self.training:
            self.z_s, self.z_t = z_s, z_t
            self.bank_s = self._moved(self.bank_s, positions, e_s)
            self.bank_t = self._moved(self.bank_t, positions, e_t)
        return loss

    def _scores(self, embeddings: Tensor, bank: Tensor, columns: Tensor) -> Tensor:
        return ((embeddings @ bank.T).gather(1, columns) / self.config.contrast_temperature).exp()

    def _constant(self, known: Tensor, scores: Tensor) -> Tensor:
        # Chosen on the device: asking whether Z is known would make the host wait in every step.
        return torch.where(known < 0, scores.detach().mean() * self.num_images, known)

    @torch.no_grad()
    def _moved(self, bank: Tensor, positions: Tensor, embeddings: Tensor) -> Tensor:
        # Not in place: the backward pass still needs the bank that the scores came from.
        m = self.config.bank_momentum
        return bank.index_copy(0, positions, unit(m * bank[positions] + (1 - m) * embeddings))


def nce(scores: Tensor, num_images: int) -> Tensor:
    """Scores (B, 1 + K), the positive first -> the noise-contrastive loss above, a scalar."""
    noise = (scores.shape[1] - 1) / num_images
    positive, negative = scores[:, 0], scores[:, 1:]
    log_hit = (positive / (positive + noise + _EPS)).log()
    log_miss = (noise / (negative + noise + _EPS)).log().sum(1)
    return -(log_hit + log_miss).mean()
