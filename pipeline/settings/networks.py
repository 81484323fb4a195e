"""params.yaml, sections teacher, teach, student and distill: who teaches whom, and by which methods."""

from typing import Annotated, Any, Literal

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
    """A file with weights that are used instead of training a teacher, or a folder with such a file and its
    config.json: see docs/own-teacher.md. null: the teacher is trained."""
    normalization: Normalization | None = None
    """Normalisation with which `weights` were trained. null: the one that the file, its folder or timm names for them;
    that of the data card if none does."""
    head: Literal["retrain"] | None = None
    """`retrain`: of `weights`, or of timm's pretrained ones, all but the last layer is taken as it is, and a new last
    layer for the classes of this data is trained by `train`. null: `weights` are used as they are, and `pretrained`
    ones are trained as a whole."""
    seed: Seed = 0
    """Seed of the initial weights and of the order and the views of the images."""
    train: Train = Train()

    @property
    def trains(self) -> bool:
        """Whether anything is trained, or weights are used as they are."""
        return self.weights is None or self.head is not None

    @model_validator(mode="after")
    def _weights_are_trained(self) -> "Teacher":
        if self.pretrained and self.weights is not None:
            raise ValueError(
                "with weights nothing is trained, so that pretrained: true has no effect; remove one of them"
            )
        if self.normalization is not None and self.head is None and self.weights is None:
            raise ValueError(
                "normalization is what weights that stay as they are were trained with, but here all are trained; set "
                "data.normalization instead"
            )
        if self.head is not None and not self.pretrained and self.weights is None:
            raise ValueError(
                "head: retrain trains the last layer alone, so that the others need weights; set pretrained to true, "
                "or weights to a file"
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


class Pruned(Section):
    """How a student is cut from its teacher: to share_of_macs or to speedup, whichever is given (stage cut_student)."""

    share_of_macs: float | None = Field(default=None, gt=0, lt=1)
    """The student has at most this share of the teacher's multiply-accumulates."""
    speedup: float | None = Field(default=None, gt=1)
    """The student, exported with one image a call, is at least so many times as fast as the teacher on the machine that
    cuts it."""
    cut: Literal["channels", "blocks"] = "channels"
    """What goes: the same share of every layer's channels; or whole residual blocks, starting with those that
    change their input least, measured on 512 training images. A thin network is faster with fewer blocks, hardly with
    fewer channels."""
    importance: Literal["magnitude", "taylor"] = "magnitude"
    """Which channels stay: those with the largest weights, or those that change the loss most by its gradient on 512
    training images."""
    round_to: Positive = 16
    """Layers keep a multiple of so many channels. ONNX Runtime computes them in blocks: 16 on processors with AVX-512,
    8 with AVX2; a thin network may need less."""
    keep_weights: bool = True
    """Whether training starts from the teacher's weights of the channels that stay. false: from fresh weights."""

    @model_validator(mode="after")
    def _has_one_target(self) -> "Pruned":
        if (self.share_of_macs is None) == (self.speedup is None):
            raise ValueError("give one of share_of_macs, such as 0.33, and speedup, such as 3, and not both")
        return self


class Student(Section):
    """The small network that is to be deployed."""

    arch: str = "resnet20"
    """Name of the network, as for the teacher; or `pruned`, which is cut from the teacher."""
    image_px: Annotated[int, Field(ge=8, le=1024)] | None = None
    """Height and width of the images that the student sees: what the teacher sees of the same image, made smaller. It
    must not be more than `data.image_px`. null: the same as `data.image_px`."""
    pretrained: bool = False
    """Whether training starts from the pretrained weights that timm has for this network. They are downloaded if they
    are not in the cache."""
    pruned: Pruned | None = None
    """How the student is cut from its teacher, for arch pruned."""

    @model_validator(mode="after")
    def _pruned_has_its_section(self) -> "Student":
        if (self.arch == "pruned") != (self.pruned is not None):
            raise ValueError(
                "arch: pruned and the section pruned belong together: write both, such as "
                "{arch: pruned, pruned: {share_of_macs: 0.33}}, or neither"
            )
        if self.pruned is not None and self.pretrained:
            raise ValueError("a student cut from its teacher has no pretrained weights; set pretrained to false")
        return self


class Distill(Section):
    """How students are trained: one for every method of `methods` and every seed of `seeds` (stage distill)."""

    seeds: SomeDistinct[Seed] = (0,)
    """Seeds of the initial weights and of the order and the views of the images. With several seeds, a difference
    between methods can be told from chance."""
    train: Train = Train()
    methods: dict[str, dict[str, Any]] = Field(default={"vanilla": {}}, min_length=1)
    """Settings of each method, by its name. Every method that is listed is trained."""
