"""The contract of every distillation method: a student to train, a borrowed teacher, and named loss terms.

The teacher is only borrowed. It is no submodule, so it stands in no parameters(), no state_dict() and no train() of the
method; its weights and its BN statistics never change.

The law: method.eval(); method.deployed()(method.seen(images)) == method(batch).logits. What is measured is what ships.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.data.augment import smaller
from pipeline.data.card import DataCard
from pipeline.devices.precision import place
from pipeline.distillation.batch import Batch, Both, Output, cross_entropy
from pipeline.distillation.blocks import soft_kl
from pipeline.models.base import Classifier, Features, Shapes, shapes
from pipeline.models.fold import folded
from pipeline.settings.data import Normalization
from pipeline.settings.section import Section
from pipeline.settings.training import Train
from pipeline.system import registry
from pipeline.system.errors import ParamsError

Weight = Annotated[float, Field(ge=0)]


class Config(Section):
    """Settings that every method has. A method's own Config sets its source's defaults and adds what it needs."""

    ce_weight: Weight = 1.0
    """Weight of the cross-entropy with the labels."""
    kl_weight: Weight = 0.0
    """Weight of the divergence between the softened predictions (Hinton's KD term); 0 switches it off."""
    temperature: Annotated[float, Field(gt=0)] = 4.0
    """Temperature by which both predictions are softened in the KD term."""
    teacher_bn: Literal["eval", "batch"] = "eval"
    """Whether the teacher's batch normalisation uses its running statistics (`eval`) or those of the batch (`batch`, as
    some official code does)."""

    def head_weights(self) -> dict[str, float]:
        """What the terms that teach the student's classifier weigh, by the settings that say so; one is above 0.

        Terms of maps and pooled features never reach the classifier: by them alone it would stay as it was drawn.
        """
        return {"ce_weight": self.ce_weight, "kl_weight": self.kl_weight}

    @model_validator(mode="after")
    def _the_classifier_learns(self) -> Self:
        weights = self.head_weights()
        if not any(weights.values()):
            names = f"{' and '.join(weights)} are {'both' if len(weights) == 2 else 'all'} 0"
            raise ValueError(f"{names}, so that the student's classifier would learn nothing; raise one of them")
        return self


@dataclass(frozen=True)
class Teacher:
    """A trained network to learn from, and what its images need."""

    model: Classifier
    normalization: Normalization
    image_px: int | None = None
    """Height and width of its images, which are those of a batch; None: the student's."""


class Method(nn.Module):
    """Cross-entropy and the KD term, each with its weight; a subclass adds terms of its own.

    Args:
        config: the `Config` beside the subclass.
        student: trained, and owned by the method.
        teacher: borrowed; None only where `needs_teacher` is False.
        card: of the data set as the student sees it: its image size and normalisation, classes, counts.
    """

    needs_teacher: ClassVar[bool] = True
    smallest_batch: ClassVar[int] = 1
    """Fewest images at a time from which every term of the method learns. Its networks may need more:
    pipeline/training/batch_sizes.py finds that out."""
    fewest_classes: int = 2
    """Fewest classes that its terms can teach to tell apart; an instance says so too where its settings need more."""
    takes_mixed: ClassVar[bool] = True
    """False where terms of its own take an image for one of its labelled class: then it can train neither on mixtures
    nor on images without labels."""
    views: ClassVar[Literal[1, 2]] = 1
    """Of each image. With 2, the second one is strong (pipeline/data/strong.py), both networks see each view in a
    forward pass of its own, and `terms` gets `Both` of student and teacher. The weak one's logits are deployed."""
    cuda_graphs: ClassVar[bool] = True
    """False where a compiled step cannot be recorded as a CUDA graph: it keeps what it computed for a later step, whose
    replay would overwrite it, or calls an operation that waits for the GPU."""
    compares_logits: ClassVar[bool] = False
    """The method's own terms compare predictions, so that teacher and data need the same classes at any kl_weight."""
    reads: tuple[str, ...] | None = None
    """All that `terms` takes of the teacher, by the names of pipeline/teaching/kept.py, so that a cache can
    answer for it. None: whole maps, which no cache keeps; an instance says so too where its pair needs them."""
    recall: Callable[[Batch], Any] | None = None
    """Answers in the teacher's place, from a cache; None: the teacher runs."""

    def __init__(self, config: Any, student: Classifier, teacher: Teacher | None, card: DataCard) -> None:
        super().__init__()
        self.config = config
        self.student = student
        self.image_px = card.image_px
        self.teacher_px = (teacher.image_px if teacher else None) or card.image_px
        if card.num_classes < self.fewest_classes:
            raise ParamsError(
                f"{self.name} learns from {self.fewest_classes} classes or more, but the data set has "
                f"{card.num_classes}. Remove {self.name} from distill.methods."
            )
        self._borrowed: tuple[Classifier, ...] = ()
        self._renormalize: tuple[Tensor, Tensor] | None = None
        if not self.needs_teacher:
            return
        if teacher is None:
            raise ParamsError(f"{self.name} learns from a teacher, but none was given.")
        classes = teacher.model.fc.out_features
        if (self.compares_logits or config.kl_weight > 0) and classes != card.num_classes:
            cause, cure = f"kl_weight is {config.kl_weight}", "Set kl_weight to 0 or choose another teacher."
            if self.compares_logits:
                cause, cure = f"{self.name} compares predictions", "Choose another teacher or method."
            raise ParamsError(
                f"{cause}, but the teacher knows {classes} classes and the data set has {card.num_classes}: their "
                f"predictions cannot be compared. {cure}"
            )
        model = _with_batch_statistics(teacher.model) if config.teacher_bn == "batch" else teacher.model
        self._borrowed = (model.eval().requires_grad_(False),)
        if teacher.normalization != card.normalization:
            self._renormalize = _between(card.normalization, teacher.normalization)

    @property
    def name(self) -> str:
        """That of the method's file, by which distill.methods lists it."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def teacher(self) -> Classifier:
        """The borrowed network, always in eval mode and without gradients."""
        return self._borrowed[0]

    def check_recipe(self, settings: Train) -> None:
        """Refuse, before training, a recipe that the method cannot follow."""
        if settings.mixes and not self.takes_mixed:
            raise ParamsError(
                f"{self.name} expects that each image shows its labelled class alone, but distill.train mixes images "
                f"of two classes. Set distill.train.mixup_alpha and cutmix_alpha to 0, or remove {self.name} from "
                "distill.methods."
            )
        if settings.unlabelled_share and not (self.needs_teacher and self.takes_mixed):
            why = "reads the label of every image" if self.needs_teacher else "learns from labels alone"
            raise ParamsError(
                f"{self.name} {why}, but by distill.train.unlabelled_share a part of each batch has none. Set "
                f"distill.train.unlabelled_share to 0, or remove {self.name} from distill.methods."
            )

    def begin(self, labels: Tensor) -> None:
        """Called once before training with the labels (N,) of the training set, for methods that sample by class."""

    def place_on(self, device: torch.device) -> None:
        """Move student, projectors and a lean copy of the teacher to a device, in the layout that convolutions want.

        From here on the teacher only answers: its BNs are folded where they stand behind a convolution.
        """
        place(self, device)
        self._borrowed = tuple(map(folded, self._borrowed))
        for model in self._borrowed:
            place(model, device)
        if self._renormalize is not None:
            scale, shift = self._renormalize
            self._renormalize = scale.to(device), shift.to(device)

    def forward(self, batch: Batch) -> Output:
        """Networks compute in the precision that the caller's autocast sets, loss terms in float32."""
        weak = self.student.features(self.seen(batch.images))
        s: Features | Both = weak
        t = None
        if self.needs_teacher:
            t = self.teach(batch.images) if self.recall is None else self.recall(batch)
        if self.views == 2 and batch.strong is not None:
            s = Both(weak, self.student.features(self.seen(batch.strong)))
            t = None if t is None else Both(t, self.teach(batch.strong))
        with torch.autocast(batch.images.device.type, enabled=False):
            return Output(weak.logits, self.terms(s, t, batch))

    def seen(self, images: Tensor) -> Tensor:
        """What the student sees of a batch's images: the same, made smaller where its own are."""
        return smaller(images, self.image_px)

    def teach(self, images: Tensor) -> Features:
        """The teacher's features of a batch's images, re-normalised where the two were trained differently."""
        with torch.no_grad():
            if self._renormalize is not None:
                scale, shift = self._renormalize
                images = images * scale + shift
            return self.teacher.features(images)

    def terms(self, s: Any, t: Any, batch: Batch) -> dict[str, Tensor]:
        """Named, weighted scalars whose sum is the loss, from Features, or `Both`, of student and teacher; `t` is None
        for a method without a teacher."""
        return self.logit_terms(s.logits, t.logits if t is not None and self.config.kl_weight else None, batch)

    def logit_terms(self, z_s: Tensor, z_t: Tensor | None, batch: Batch) -> dict[str, Tensor]:
        """The two terms of logits (B, K); `z_t` is None where no teacher's are compared."""
        c = self.config
        terms = {}
        if c.ce_weight:
            terms["ce"] = c.ce_weight * cross_entropy(z_s, batch)
        if z_t is not None:
            terms["kl"] = c.kl_weight * soft_kl(z_s, z_t, c.temperature)
        return terms

    def observe(self, batches: Iterable[Tensor], images: int) -> dict[str, Any]:
        """What a person may want to see of the method itself, as plain data for the record of an epoch.

        Called after each epoch, in eval mode and without gradients. Must draw no random numbers and change nothing:
        training has the same bits with and without it.

        Args:
            batches: images (B, 3, H, W), as in `Batch`, of this process's part, by `distributed.share`, of a fixed
                sample of the validation split.
            images: in the whole sample.
        """
        return {}

    def deployed(self) -> nn.Module:
        """The network that ships: the student alone, unless a method says otherwise."""
        return self.student

    def shapes(self, card: DataCard) -> tuple[Shapes, Shapes]:
        """Measured tap sizes of student and teacher, each with images of its own size."""
        return shapes(self.student, card.image_px), shapes(self.teacher, self.teacher_px)


def find(name: str) -> ModuleType:
    """The method file called `name`. Raises ParamsError with the nearest name when there is none."""
    return registry.find("pipeline.distillation", name, "distill.methods")


def _with_batch_statistics(teacher: Classifier) -> Classifier:
    # Without running statistics a BN falls back on the batch, even in eval mode, and has none that could drift.
    model = copy.deepcopy(teacher)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return model


def _between(student: Normalization, teacher: Normalization) -> tuple[Tensor, Tensor]:
    # (x * std_s + mean_s - mean_t) / std_t, as one scale and one shift per channel.
    mean_s, std_s = (torch.tensor(x).view(1, 3, 1, 1) for x in (student.mean, student.std))
    mean_t, std_t = (torch.tensor(x).view(1, 3, 1, 1) for x in (teacher.mean, teacher.std))
    return std_s / std_t, (mean_s - mean_t) / std_t
