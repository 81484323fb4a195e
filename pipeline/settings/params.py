"""params.yaml as typed, frozen values. Numbers are checked here, at the door, and trusted inside.

A method's or a data source's own settings stand in its own file, as a `Config` beside the code that reads them;
`method_config` and `source_config` find them. `check_all` looks at everything, before anything long starts.
"""

from pathlib import Path
from typing import Any

from pydantic import model_validator
from ruamel.yaml import YAML

from pipeline.settings.data import Augment, Data
from pipeline.settings.deployment import Benchmark, Deploy, Evaluate, Quantize
from pipeline.settings.networks import Distill, Student, Teach, Teacher
from pipeline.settings.reading import parse, read_yaml
from pipeline.settings.section import BEST, Section
from pipeline.system import registry
from pipeline.system.errors import ParamsError


class Params(Section):
    """Everything in params.yaml, one section per stage."""

    data: Data = Data()
    augment: Augment = Augment()
    teacher: Teacher = Teacher()
    teach: Teach = Teach()
    student: Student = Student()
    distill: Distill = Distill()
    evaluate: Evaluate = Evaluate()
    deploy: Deploy = Deploy()
    quantize: Quantize = Quantize()
    benchmark: Benchmark = Benchmark()

    @property
    def student_px(self) -> int:
        """Height and width of the images that students see."""
        return self.student.image_px or self.data.image_px

    @model_validator(mode="after")
    def _a_cache_is_of_single_images(self) -> "Params":
        if self.teach.cache and self.distill.train.mixes:
            raise ValueError(
                "teach.cache keeps what the teacher says of single images, but distill.train.mixup_alpha or "
                "cutmix_alpha mixes them; set cache to false, or both to 0"
            )
        return self

    @model_validator(mode="after")
    def _images_without_labels_can_teach(self) -> "Params":
        if self.teacher.train.unlabelled_share:
            raise ValueError(
                "teacher.train.unlabelled_share is above 0, but the teacher learns from labels alone; set it to 0. "
                "Students learn from images without labels by distill.train.unlabelled_share"
            )
        share = self.distill.train.unlabelled_share
        in_eight_bits = self.quantize.train.unlabelled_share if self.quantize.train else 0
        for key, wanted in (("distill.train", share), ("quantize.train", in_eight_bits)):
            if wanted and self.data.unlabelled is None:
                raise ValueError(
                    f"{key}.unlabelled_share is {wanted:g}, but data.unlabelled is null; set it to the folder of the "
                    "images without labels, or the share to 0"
                )
        if share and self.teach.cache:
            raise ValueError(
                "teach.cache keeps what the teacher says of the training images, but by "
                "distill.train.unlabelled_share it is asked about others too; set cache to false, or the share to 0"
            )
        return self

    @model_validator(mode="after")
    def _no_epoch_is_chosen_on_images_seen_in_training(self) -> "Params":
        chosen = [
            f"{name}.train.select"
            for name, train in (("teacher", self.teacher.train), ("distill", self.distill.train))
            if train.select == "best" and (name == "distill" or self.teacher.trains)
        ]
        if self.data.train_includes_val and chosen:
            raise ValueError(
                f"data.train_includes_val is true and {_are(chosen)} best: networks are then trained on the "
                "validation images, so that these cannot tell which epoch is best, whether they are drawn from train "
                "or are the source's own split; set select to last, or train_includes_val to false"
            )
        return self

    @model_validator(mode="after")
    def _no_student_is_chosen_on_images_seen_in_training(self) -> "Params":
        chosen = [f"deploy.{name}" for name in ("method", "seed") if getattr(self.deploy, name) == BEST]
        if self.data.train_includes_val and chosen:
            raise ValueError(
                f"data.train_includes_val is true and {_are(chosen)} best: the students are then trained on the "
                "validation images, so that these cannot tell which student is best; name the student by "
                "deploy.method and deploy.seed, or set train_includes_val to false"
            )
        return self

    @model_validator(mode="after")
    def _a_student_sees_no_more_than_there_is(self) -> "Params":
        if self.student_px > self.data.image_px:
            raise ValueError(
                f"student.image_px is {self.student_px}, but what is cut out of the stored images has "
                f"data.image_px {self.data.image_px}, and enlarging it would add nothing to see; lower "
                "student.image_px, or raise data.image_px and with it the images that the teacher sees"
            )
        return self

    @model_validator(mode="after")
    def _a_mirror_reaches_as_far_as_the_padding(self) -> "Params":
        if self.augment.pad_mode == "reflect" and self.augment.crop_padding_px >= self.data.stored_px:
            raise ValueError(
                f"augment.crop_padding_px is {self.augment.crop_padding_px}, but images of {self.data.stored_px} px "
                f"can be mirrored by {self.data.stored_px - 1} px at most; lower it, or set augment.pad_mode to zeros"
            )
        return self


def load(path: Path) -> Params:
    """Read and check params.yaml.

    Raises ParamsError naming every bad key with its value, what is allowed, and the nearest valid key.
    """
    raw = read_yaml(path, YAML(typ="safe", pure=True))
    return parse(Params, raw if raw is not None else {}, "", str(path))


def _are(keys: list[str]) -> str:
    return f"{' and '.join(keys)} {'is' if len(keys) == 1 else 'are'}"


def method_config(params: Params, name: str) -> Any:
    """The typed settings of one distillation method: `distill.methods.NAME` as that method's `Config`."""
    module = registry.find("pipeline.distillation", name, "distill.methods")
    if name not in params.distill.methods:
        raise ParamsError(
            f"params.yaml: distill.methods does not list {name}, only {', '.join(params.distill.methods)}. To train "
            f"it, add the line `{name}: {{}}` there."
        )
    return parse(module.Config, params.distill.methods[name], f"distill.methods.{name}", "params.yaml")


def source_config(data: Data) -> Any:
    """The typed settings of the chosen data source: `data.sources.NAME` as that source's `Config`."""
    module = registry.find("pipeline.sources", data.source, "data.source")
    return parse(module.Config, data.sources.get(data.source, {}), f"data.sources.{data.source}", "params.yaml")


def check_all(params: Params) -> None:
    """Check what single stages would only meet later: every method and source, and what `deploy` points at."""
    for name in params.data.sources:
        registry.find("pipeline.sources", name, "data.sources")
    source_config(params.data)
    for name in params.distill.methods:
        method_config(params, name)
    if params.deploy.method not in (BEST, *params.distill.methods):
        listed = ", ".join(params.distill.methods)
        raise ParamsError(
            f"params.yaml: deploy.method is '{params.deploy.method}', which distill.methods does not list ({listed}). "
            "Set it to one of these, whose student is then deployed, or to best."
        )
    if params.deploy.seed not in (BEST, *params.distill.seeds):
        seeds = ", ".join(map(str, params.distill.seeds))
        raise ParamsError(
            f"params.yaml: deploy.seed is {params.deploy.seed}, which distill.seeds does not list ({seeds}). Set it "
            "to one of these, or to best."
        )


def check_complete(params: Params) -> None:
    """Check that nothing is left to a default that a stage lists: DVC would say so only when it comes to that stage."""
    listed = (
        ("", params, list(Params.model_fields)),
        ("data.", params.data, [name for name in Data.model_fields if name != "sources"]),
        ("data.sources.", params.data.sources, [params.data.source]),
        ("teach.", params.teach, ["views"]),
        ("distill.", params.distill, list(Distill.model_fields)),
        ("distill.train.", params.distill.train, ["precision"]),
        ("deploy.", params.deploy, list(Deploy.model_fields)),
        ("benchmark.", params.benchmark, ["threads", "device"]),
    )
    missing = [
        f"{place}{name}"
        for place, section, names in listed
        for name in names
        if name not in (section.model_fields_set if isinstance(section, Section) else section)
    ]
    if missing:
        raise ParamsError(
            f"params.yaml lacks {', '.join(missing)}. Write them down, with the default of docs/params.md or another "
            "value: the stages of dvc.yaml read them."
        )
