"""Put every method of params.yaml on a blank copy of its pair: what cannot work is said before a teacher is trained."""

import copy
import io

import torch
from ruamel.yaml import YAML

from pipeline.data.card import DataCard
from pipeline.distillation import vanilla
from pipeline.distillation.base import Method, Teacher, find
from pipeline.models import cutting
from pipeline.models.base import Classifier, build, check_pretrained, count_macs, shapes, spec_of
from pipeline.settings.data import Normalization
from pipeline.settings.networks import Pruned
from pipeline.settings.params import Params, method_config
from pipeline.settings.training import Train
from pipeline.system.errors import ParamsError
from pipeline.training import batch_sizes

CLASSES = 10
"""Of data that are not prepared yet."""
_IMAGES = 64


@torch.no_grad()
def rehearse(params: Params) -> None:
    """Build both networks with fresh weights, pass a blank image through, and construct every method on the pair.

    Of a pruned teacher only its file in `teacher.weights` knows enough: then the student alone is tried.

    Raises ParamsError for a network that is not there or cannot take images of its size, for pretrained weights that
    do not exist, and for a method that cannot serve the pair or follow the recipe of distill.train.
    """
    card, seen = stand_in(params.data.image_px), stand_in(params.student_px)
    for role, section in (("teacher", params.teacher), ("student", params.student)):
        if section.pretrained:
            check_pretrained(section.arch, role)
    given, pruned = params.teacher.weights is not None, params.student.pruned
    if given and params.teacher.arch in ("pruned", "reused"):
        if pruned is None:
            _blank("student", params.student.arch, seen)
        return
    teacher = _blank("teacher", params.teacher.arch, card)
    student = _blank("student", params.student.arch, seen) if pruned is None else _cut(teacher, pruned, params)
    if not given:
        _try(vanilla.Method(vanilla.Config(), teacher, None, card), params.teacher.train, "teacher.train")
    refused = refusals(params, teacher, student, seen)
    if len(refused) == len(params.distill.methods):
        raise next(iter(refused.values()))
    if refused:
        raise ParamsError(_way_out(params, refused))


@torch.no_grad()
def refusals(params: Params, teacher: Classifier, student: Classifier, card: DataCard) -> dict[str, ParamsError]:
    """The methods of params.yaml that cannot serve the pair, or follow the recipe of distill.train, each with why.

    `card` is of the data as the student sees them. Both networks stay as they are.
    """
    refused: dict[str, ParamsError] = {}
    for name in params.distill.methods:
        # A method may change its student, never its teacher.
        config, borrowed = method_config(params, name), Teacher(teacher, card.normalization, params.data.image_px)
        try:
            method = find(name).Method(config, copy.deepcopy(student), borrowed, card)
            _try(method, params.distill.train, "distill.train")
        except ParamsError as error:
            refused[name] = error
    return refused


def _way_out(params: Params, refused: dict[str, ParamsError]) -> str:
    """Why some methods cannot serve a pair, and the line that leaves the others."""
    others = {name: config for name, config in params.distill.methods.items() if name not in refused}
    pair = f"{params.teacher.arch} to {params.student.arch}"
    text = " ".join(f"{name} cannot be trained from {pair}: {error}" for name, error in refused.items())
    ships = (
        f", and deploy.method to one of them (now {params.deploy.method})" if params.deploy.method in refused else ""
    )
    return f"{text} Or train the others alone: set distill.methods to this line{ships}.\n  methods: {_flow(others)}"


def _flow(values: object) -> str:
    """Plain data as YAML on one line."""
    text = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.width, yaml.sort_base_mapping_type_on_output = True, 10_000, False  # type: ignore[assignment]
    yaml.dump(values, text)
    return text.getvalue().strip()


def _try(objective: Method, settings: Train, section: str) -> None:
    """Refuse a recipe that the objective cannot follow, whatever the number of images, which is not known yet."""
    try:
        objective.check_recipe(settings)
        size = settings.batch_size
        batch_sizes.check(objective, size, batch_sizes.fewest_images(objective, size, settings, settings.processes))
    except ParamsError as error:
        raise ParamsError(f"params.yaml: {section}: {error}") from error


def _blank(role: str, arch: str, card: DataCard) -> Classifier:
    try:
        model = build(spec_of(arch, card.num_classes, card.image_px))
        shapes(model, card.image_px)
    except ParamsError as error:
        raise ParamsError(f"params.yaml: {role}.arch: {error}") from error
    return model


def _cut(teacher: Classifier, settings: Pruned, params: Params) -> Classifier:
    """A student of about the size that is asked for. How fast one is, is not measured before there is a teacher."""
    px, teacher_px = params.student_px, params.data.image_px
    whole = count_macs(teacher, teacher_px)
    return cutting.student_of(
        teacher,
        px,
        settings,
        lambda candidate: whole / count_macs(candidate, px),
        teacher_px=teacher_px,
        speed="its speed, as multiply-accumulates tell before there is a teacher",
    )


def stand_in(image_px: int, num_classes: int = CLASSES) -> DataCard:
    """A card for data that are not prepared yet, small enough that no method's memory grows with it."""
    counts = dict.fromkeys(("train", "val", "test"), _IMAGES)
    return DataCard(
        source="rehearsal",
        labels=tuple(map(str, range(num_classes))),
        image_px=image_px,
        storage_px=image_px,
        counts=counts,
        class_counts={},
        normalization=Normalization(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        sha256={},
        licence=None,
    )
