"""A training step gives a GPU work and waits for nothing: from the pixels to the update, for every method."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pipeline.data import augment
from pipeline.data import feed as feeds
from pipeline.data.feed import Feed
from pipeline.distillation.base import Method, Teacher, find
from pipeline.distillation.batch import Batch
from pipeline.settings.data import Augment, Normalization
from pipeline.settings.training import Train
from pipeline.system import registry
from pipeline.training import engine
from pipeline.training.mixing import Mixer
from pipeline.training.state import Tally
from tests import tiny
from tests.devices.far_device import FAR, CopyError, without_copies

OTHER = Normalization(mean=(0.1, 0.2, 0.3), std=(0.3, 0.2, 0.1))
SETTINGS = Train(epochs=1, batch_size=16, precision="fp32")


@pytest.fixture
def far_feed(monkeypatch: pytest.MonkeyPatch) -> Feed:
    monkeypatch.setattr(feeds, "stays_on", lambda device, num_bytes: True)
    return Feed(tiny.split(64), tiny.NORMALIZATION, FAR)


def step(method: Method, optimizer: torch.optim.Optimizer, batch: Batch, tally: Tally) -> None:
    logits, terms = engine.train_step(method, optimizer, batch, SETTINGS)
    correct = (logits.argmax(1) == batch.main_labels()).sum()
    tally.add(list(terms), torch.stack(list(terms.values())), correct, len(batch.labels))


@pytest.mark.parametrize("name", registry.names("pipeline.distillation"))
def test_a_step_of_every_method(name: str) -> None:
    module, batch = find(name), tiny.batch()
    teacher = Teacher(tiny.network("resnet14", seed=1).eval(), OTHER)  # of other images than the student's
    method = module.Method(module.Config(**tiny.SETTINGS.get(name, {})), tiny.network(), teacher, tiny.card())
    method.begin(torch.arange(64) % tiny.CLASSES)
    method.place_on(FAR)
    method.train()
    batch = replace(batch, **{k: v.to(FAR) for k, v in vars(batch).items() if isinstance(v, Tensor)})
    # The fused step of training does not know this device.
    optimizer, tally = torch.optim.SGD(method.parameters(), SETTINGS.lr, SETTINGS.momentum), Tally()
    with without_copies(but_first=lambda: step(method, optimizer, batch, tally)):
        step(method, optimizer, batch, tally)


@pytest.mark.parametrize("crop", ["padded", "resized"])
@pytest.mark.parametrize("mixup_alpha", [0, 1])
@pytest.mark.parametrize(("strong", "shown"), [(False, 1), (True, 1), (False, 2)])
def test_the_batches_of_an_epoch(far_feed: Feed, crop: str, mixup_alpha: float, strong: bool, shown: int) -> None:
    views = Augment(crop=crop, flip=True, strong=strong)
    settings = Train(mixup_alpha=mixup_alpha, cutmix_alpha=mixup_alpha)
    batches = far_feed.train_batches(views, 0, 0, 16, drop_last=True, views=shown)
    mixer = Mixer(far_feed, settings, views, 0, 0)
    with without_copies(but_first=lambda: next(batches)):  # an epoch begins with the order, which the host draws
        for images, labels, positions in batches:
            weak, *more = images.chunk(shown)
            batch = mixer(Batch(weak, labels, positions, 0.5, 0, strong=more[0] if more else None))
            assert batch.images.shape == (16, 3, 16, 16)
            assert [len(view) for view in (batch.images, batch.strong) if view is not None] == [16] * shown


def test_the_batches_of_an_evaluation(far_feed: Feed) -> None:
    with without_copies():
        assert [len(images) for images, _ in far_feed.eval_batches(48)] == [48, 16]


def test_what_waits_is_found(far_feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = augment.apply

    def batches() -> None:
        list(far_feed.eval_batches(16))
        list(far_feed.view_batches(Augment(), 0, 16))

    with without_copies(but_first=batches):
        batches()
    for planted in (
        lambda *given: plain(*given).cpu(),
        lambda *given: plain(*given) * torch.tensor([1, 2, 3], device=FAR),
        lambda *given: plain(*given)[torch.arange(3)],
        lambda *given: plain(*given) * int(given[2].sum()),
    ):
        monkeypatch.setattr(augment, "apply", planted)
        with pytest.raises((CopyError, RuntimeError)), without_copies():
            batches()
