"""params.yaml, sections teacher, teach, student and distill: who teaches whom, and by which methods."""

from typing import Any

from pydantic import Field, model_validator

from pipeline.settings.data import Normalization
from pipeline.settings.section import HomePath, Positive, Section, Seed, SomeDistinct
from pipeline.settings.training import Train


class Teacher(Section):
    """The large, accurate network that the student learns from (stage train_teacher)."""

    arch: str = "resnet56"
    """Name of the network, such as resnet20, wrn_40_2 or timm/resnet50: a family that has a file in pipeline/models,
    and a size that this file knows."""
    pretrained: bool = False
    """Whether training starts from the pretrained weights that timm has for this network. They are downloaded if they
    are not in the cache."""
    weights: HomePath | None = None
    """A safetensors file with weights that are used instead of training a teacher. null: the teacher is trained."""
    normalization: Normalization | None = None
    """Normalisation with which `weights` were trained, if the file does not say so itself. null: that of the data
    card."""
    seed: Seed = 0
    """Seed of the initial weights and of the order and the views of the images."""
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
    """K, the number of views (random changes) of each training image. All students see the same views, and epochs e and
    e + K show the same one. null: every epoch has a view of its own."""
    cache: bool = False
    """Whether to keep on disk what the teacher says of every view, for methods that read no whole maps of the teacher.
    The results are the same."""

    @model_validator(mode="after")
    def _what_is_kept_repeats(self) -> "Teach":
        if self.cache and self.views is None:
            raise ValueError("cache: true needs views that repeat; set views to their number, such as 8")
        return self


class Student(Section):
    """The small network that is to be deployed."""

    arch: str = "resnet20"
    """Name of the network, as for the teacher."""
    pretrained: bool = False
    """Whether training starts from the pretrained weights that timm has for this network. They are downloaded if they
    are not in the cache."""


class Distill(Section):
    """How students are trained: one for every method of `methods` and every seed of `seeds` (stage distill)."""

    seeds: SomeDistinct[Seed] = (0,)
    """Seeds of the initial weights and of the order and the views of the images. With several seeds, a difference
    between methods can be told from chance."""
    train: Train = Train()
    methods: dict[str, dict[str, Any]] = Field(default={"vanilla": {}}, min_length=1)
    """Settings of each method, by its name. Every method that is listed is trained."""
