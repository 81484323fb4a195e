"""Images that are gathered ahead: the same as without, in the same order, and an error in its turn."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.data import feed as feeds
from pipeline.data.gathering import in_turn
from pipeline.settings.data import Augment
from tests import tiny

PARTS = [torch.tensor([3, 1]), torch.tensor([4, 4]), torch.tensor([0, 2]), torch.tensor([5])]


def test_parts_come_in_order() -> None:
    pixels = tiny.split(6).images
    came = list(in_turn(lambda at: pixels[at], PARTS, tiny.CPU))
    assert len(came) == len(PARTS)
    assert all(torch.equal(each, torch.from_numpy(pixels[at.numpy()])) for each, at in zip(came, PARTS, strict=True))


def test_one_part_is_gathered_ahead_and_no_more() -> None:
    asked: list[int] = []

    def read(at: NDArray[np.int64]) -> NDArray[np.uint8]:
        asked.append(int(at[0]))
        return np.zeros((len(at), 1, 1, 3), np.uint8)

    gathered = in_turn(read, PARTS, tiny.CPU)
    next(gathered)
    gathered.close()
    assert asked == [3, 4]


def test_an_error_comes_in_its_turn() -> None:
    def read(at: NDArray[np.int64]) -> NDArray[np.uint8]:
        if at[0] == 0:
            raise OSError("the disk is gone")
        return np.zeros((len(at), 1, 1, 3), np.uint8)

    gathered = in_turn(read, PARTS, tiny.CPU)
    assert len([next(gathered), next(gathered)]) == 2
    with pytest.raises(OSError, match="the disk is gone"):
        next(gathered)


def test_an_epoch_is_the_same_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Augment(flip=True)
    plain = list(tiny.feed(50).train_batches(settings, 3, 2, 16, drop_last=False, first=1))
    monkeypatch.setattr(feeds, "gathers_ahead", lambda device: True)
    ahead = list(tiny.feed(50).train_batches(settings, 3, 2, 16, drop_last=False, first=1))
    assert [len(batch[0]) for batch in ahead] == [16, 16, 2]
    for one, other in zip(plain, ahead, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
