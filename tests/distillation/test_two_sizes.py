"""A student that sees images half as large as its teacher's: which methods compare the two, and what each sees."""

import re

import pytest
import torch
from torch import Tensor

from pipeline.data import augment
from pipeline.distillation.base import Method, Teacher, find
from pipeline.system.errors import ParamsError
from tests import tiny
from tests.distillation.test_methods import every_method

STUDENT_PX = tiny.IMAGE_PX // 2
REFUSED = {
    "sakd": "sakd compares square stage maps of equal size one by one. The student has 16x8x8, 32x4x4, 64x2x2, the "
    "teacher 16x16x16, 32x8x8, 64x4x4. Choose networks with the same stages, for images of the same size."
}


def method(name: str) -> Method:
    module = find(name)
    config = module.Config(**tiny.SETTINGS.get(name, {}))
    taught = tiny.network("resnet14", seed=1).eval()
    teacher = Teacher(taught, tiny.NORMALIZATION, tiny.IMAGE_PX)
    made: Method = module.Method(config, tiny.network("resnet8", seed=2), teacher, tiny.card(image_px=STUDENT_PX))
    return made


@every_method
def test_a_method_compares_maps_of_two_sizes_or_says_why_not(name: str) -> None:
    if name in REFUSED:
        with pytest.raises(ParamsError, match=re.escape(REFUSED[name])):
            method(name)
        return
    made, batch = method(name), tiny.batch()
    made.begin(torch.arange(64) % tiny.CLASSES)
    terms = made.train()(batch).terms
    assert all(term.isfinite() for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None for p in made.student.parameters() if p.requires_grad)
    made.eval()
    deployed = made.deployed().eval()
    with torch.no_grad():
        expected = deployed(augment.smaller(batch.images, STUDENT_PX))
        torch.testing.assert_close(made(batch).logits, expected, rtol=1e-4, atol=1e-4)


def test_the_teacher_sees_the_whole_view_and_the_student_the_same_view_made_smaller() -> None:
    made, batch, seen = method("kd"), tiny.batch(), dict[str, Tensor]()
    for name, network in (("student", made.student), ("teacher", made.teacher)):
        network.conv1.register_forward_pre_hook(lambda _, given, name=name: seen.update({name: given[0]}))
    made(batch)
    assert seen["teacher"] is batch.images
    # Half as high and wide, antialiased: a triangle of four pixels, of which the edges lack one.
    middle = torch.tensor([1.0, 3, 3, 1]) / 8
    window = batch.images[:, :, 1:5, 1:5]
    torch.testing.assert_close(seen["student"][:, :, 1, 1], (window * middle[:, None] * middle).sum((2, 3)))
    assert seen["student"].shape[2:] == (STUDENT_PX, STUDENT_PX)
