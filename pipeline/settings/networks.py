"""params.yaml, sections teacher, teach, student and distill: who teaches whom, and by which methods."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from pipeline.settings.data import Normalization
from pipeline.settings.section import Positive, Section, Seed
from pipeline.settings.training import Train


class Teacher(Section):
    """The good, large network (stage train_teacher)."""

    arch: str = "resnet56"
    """resnet20, wrn_40_2, timm/resnet50, ...: a family file of pipeline/models and a size it knows."""
    pretrained: bool = False
    """Start training from the weights that timm has for this network, fetched where they are not in the cache."""
    weights: str | None = None
    """A safetensors file to take instead of training."""
    normalization: Normalization | None = None
    """What `weights` was trained with, where the file does not say so itself; null: that of the data card."""
    seed: Seed = 0
    """Draws the first weights and the order and views of the images."""
    train: Train = Train()

    @model_validator(mode="after")
    def _weights_are_trained(self) -> "Teacher":
        if self.pretrained and self.weights is not None:
            raise ValueError(
                "with weights nothing is trained, so that pretrained: true has no effect; remove one of them"
            )
        return self


class Teach(Section):
    """What the teacher says of the training images, computed once for all students (stage teach)."""

    views: Positive | None = None
    """K, of each training image: epochs e and e + K show the same one, to all students; null: every epoch its own."""
    cache: bool = False
    """Keep on disk what the teacher says of every view, for methods that read no whole maps of it. The same numbers."""

    @model_validator(mode="after")
    def _what_is_kept_repeats(self) -> "Teach":
        if self.cache and self.views is None:
            raise ValueError("cache: true needs views that repeat; set views to their number, such as 8")
        return self


class Student(Section):
    """The small network that is to be deployed."""

    arch: str = "resnet20"
    """As the teacher's."""
    pretrained: bool = False
    """Start training from the weights that timm has for this network, fetched where they are not in the cache."""


class Distill(Section):
    """From teacher to student: every method of `methods` with every seed of `seeds` (stage distill)."""

    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """Each draws the first weights and the order and views of the images; several tell a difference from luck."""
    train: Train = Train()
    methods: dict[str, dict[str, Any]] = Field(default={"vanilla": {}}, min_length=1)
    """Settings of each method by its name; what is listed is trained."""
