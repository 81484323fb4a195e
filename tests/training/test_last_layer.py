"""The last layer alone learns; weights and BN statistics of the others stay as they are."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.feed import Feed
from pipeline.settings.data import Augment
from pipeline.settings.training import Train
from pipeline.training import engine
from pipeline.training.last_layer import LastLayer
from pipeline.training.resume import Resume
from tests import tiny

STILL = Augment(crop_padding_px=0, flip=False)
SETTINGS = Train(epochs=4, batch_size=16, lr=0.5, milestones=(), precision="fp32", ema_decay=0.5)


def feed() -> Feed:
    """Images whose class is their brightness, which even a fresh network's average tells."""
    split = tiny.split()
    split.images[:] = split.images // 8 + 60 * split.labels[:, None, None, None].astype(np.uint8)
    return Feed(split, tiny.NORMALIZATION, tiny.CPU)


@pytest.mark.parametrize("arch", ["resnet8", "timm/test_resnet"])
def test_the_last_layer_learns_and_nothing_else_changes(arch: str, tmp_path: Path) -> None:
    network = tiny.network(arch)
    network.train()(tiny.batch(16).images)
    before = copy.deepcopy(network.state_dict())
    objective = LastLayer(network, tiny.card())
    result = engine.fit(objective, feed(), feed(), SETTINGS, STILL, 0, Resume(tmp_path / "r", "k"), lambda record: None)
    fc = {name for name, one in network.named_parameters() if one is network.fc.weight or one is network.fc.bias}
    after = objective.deployed().state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == fc
    losses = [record["train"]["ce"] for record in result.history]
    assert losses[-1] < losses[0] - 0.1
