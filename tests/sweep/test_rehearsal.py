"""What preflight finds out about a pair and its recipe before anything trains."""

from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.settings.params import Params
from pipeline.settings.reading import parse
from pipeline.sweep.rehearsal import rehearse
from pipeline.system.errors import ParamsError


def settings(**sections: Any) -> Params:
    networks = {"teacher": {"arch": "resnet14"}, "student": {"arch": "resnet8"}}
    return parse(Params, {"data": {"image_px": 16}} | networks | sections, "", "params.yaml")


@pytest.mark.parametrize(
    ("px", "images", "method", "refused"),
    [
        (16, 1, "kd", None),
        (4, 1, "kd", r"kd needs at least 2 images in a batch with resnet8 at 4 px"),
        (4, 2, "simkd", None),
        (16, 2, "dist", r"dist needs at least 3 images in a batch, but an epoch would have a batch of 2"),
        (16, 3, "rkd", None),
        (16, 64, "semckd", r"semckd .*drop_last to true \(now false\)"),
    ],
)
def test_a_batch_that_is_too_small_is_known_before_a_teacher_trains(
    px: int, images: int, method: str, refused: str | None
) -> None:
    params = settings(distill={"train": {"batch_size": images}, "methods": {method: {}}})
    # Smaller than a params.yaml may say: the smallest network whose last maps are of 1 x 1.
    params = params.model_copy(update={"data": params.data.model_copy(update={"image_px": px})})
    if refused is None:
        rehearse(params)
        return
    with pytest.raises(ParamsError, match=rf"params\.yaml: distill\.train: {refused}"):
        rehearse(params)


@pytest.mark.parametrize("given", [{}, {"weights": "teacher.safetensors"}], ids=["trained", "given"])
def test_pair_and_recipe_are_tried_whether_the_teacher_is_trained_or_given(given: dict[str, Any]) -> None:
    teacher = {"teacher": {"arch": "resnet14", **given}}
    with pytest.raises(ParamsError, match="kdsvd compares the channels of the networks"):
        rehearse(
            settings(**teacher, student={"arch": "vgg8"}, data={"image_px": 32}, distill={"methods": {"kdsvd": {}}})
        )
    mixed = {"methods": {"kd": {}, "sdd": {}}, "train": {"mixup_alpha": 0.2}}
    with pytest.raises(
        ParamsError, match=r"sdd expects that each image shows its labelled class alone(.|\n)*methods: \{kd: "
    ):
        rehearse(settings(**teacher, distill=mixed, deploy={"method": "kd"}))


def test_a_student_that_is_asked_to_be_too_fast_is_said_by_its_own_key() -> None:
    cut = {"arch": "pruned", "pruned": {"speedup": 1000.0}}
    with pytest.raises(ParamsError, match=r"pruned\.speedup is 1000, .* has [\d.]+ times its speed, as multiply-acc"):
        rehearse(settings(student=cut))
    rehearse(settings(student={"arch": "pruned", "pruned": {"speedup": 1.5, "round_to": 4}}))


def test_the_batches_of_a_given_teacher_are_not_tried() -> None:
    rehearse(settings(teacher={"arch": "resnet18", "weights": "w", "train": {"batch_size": 1}}, data={"image_px": 32}))


def test_the_teachers_own_batches_are_tried_too() -> None:
    params = settings(teacher={"arch": "resnet18", "train": {"batch_size": 1}}, data={"image_px": 32})
    with pytest.raises(
        ParamsError, match=r"params.yaml: teacher\.train: vanilla needs at least 2 .* resnet18 at 32 px"
    ):
        rehearse(params)


def test_methods_that_cannot_serve_a_pair_are_left_out_by_a_line_to_paste() -> None:
    methods: dict[str, dict[str, Any]] = {"sakd": {}, "vanilla": {}, "kd": {"temperature": 2.0, "teacher_bn": "eval"}}
    ships = {"method": "sakd", "seed": 0}
    mixed = {"teacher": {"arch": "resnet18"}, "student": {"arch": "resnet8"}, "data": {"image_px": 32}}
    with pytest.raises(ParamsError) as caught:
        rehearse(settings(**mixed, distill={"methods": methods}, deploy=ships))
    said, line = str(caught.value).splitlines()
    assert said.startswith("sakd cannot be trained from resnet18 to resnet8: sakd compares square stage maps")
    assert said.endswith("set distill.methods to this line, and deploy.method to one of them (now sakd).")
    left = YAML(typ="safe", pure=True).load(line)["methods"]
    assert left == {name: methods[name] for name in ("vanilla", "kd")}
    assert list(left) == ["vanilla", "kd"]
    rehearse(settings(**mixed, distill={"methods": left}))
    with pytest.raises(ParamsError, match=r"^sakd compares square stage maps"):
        rehearse(settings(**mixed, distill={"methods": {"sakd": {}}}))
