"""Attention made visible: what AFD writes of itself after each epoch, and where networks look."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline import engine
from pipeline.data.augment import normalize
from pipeline.distillation.base import Method
from pipeline.params import Train
from pipeline.resume import Resume
from tests import tiny
from tests.test_engine import AUGMENT, SETTINGS, assert_same, fit, weights


def by_hand(method: Method, images: torch.Tensor) -> torch.Tensor:
    """The mean attention (T, S), image by image and pair by pair from the formula in afd.py, in float64."""
    m = method.attention.double()
    with torch.no_grad():
        taps_s, taps_t = (net.double().features(images.double()).blocks for net in (method.student, method.teacher))
    h_s, h_t = ([tap.act.mean((2, 3)) for tap in taps] for taps in (taps_s, taps_t))

    def embedded(embeddings: Any, pooled: list[torch.Tensor]) -> torch.Tensor:
        rows = torch.cat([x @ net.weight.T + net.bias for x, net in zip(pooled, embeddings.linears, strict=True)], 1)
        n = embeddings.norm
        rows = (rows - n.running_mean) / (n.running_var + n.eps).sqrt() * n.weight + n.bias
        return rows.view(len(images), len(pooled), -1)

    queries, keys = embedded(m.queries, h_t), functional.relu(embedded(m.keys, h_s))
    b = keys @ m.products.linear.weight.T
    flat = b.flatten(0, 1)
    b = (b - flat.mean(0)) / (flat.var(0, unbiased=False) + 1e-5).sqrt() * m.products.norm.weight
    b = (b + m.products.norm.bias).view(len(images), len(h_s), len(h_t), -1)
    mean = torch.zeros(len(h_t), len(h_s), dtype=torch.float64)
    for n in range(len(images)):
        for t in range(len(h_t)):
            scores = [b[n, s, t] @ queries[n, t] + m.position_t[t] @ m.position_s[s] for s in range(len(h_s))]
            mean[t] += (torch.stack(scores) / queries.shape[2] ** 0.5).softmax(0) / len(images)
    return mean.detach()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Method, engine.Result]:
    method = tiny.method("afd")
    return method, fit(method, tmp_path_factory.mktemp("trained") / "state")


def test_afd_writes_its_mean_attention_after_every_epoch(trained: tuple[Method, engine.Result]) -> None:
    method, result = trained
    for record in result.history:
        seen = record["attention"]
        assert seen["rows"] == ("1.1", "1.2", "2.1", "2.2", "3.1", "3.2")
        assert seen["columns"] == ("1.1", "2.1", "3.1")
        assert seen["images"] == 16
        np.testing.assert_allclose(np.sum(seen["weights"], 1), 1, atol=1e-5)
    drawn = torch.randperm(32, generator=torch.Generator().manual_seed(0))[:16]
    images = normalize(torch.from_numpy(tiny.split(32, seed=1).images[drawn.numpy()]), tiny.NORMALIZATION)
    last = torch.tensor(result.history[-1]["attention"]["weights"], dtype=torch.float64)
    torch.testing.assert_close(last, by_hand(method, images), rtol=1e-4, atol=1e-5)
    assert (last - 1 / 3).abs().max() > 0.01, "a uniform attention would hide a wrong order"


@pytest.mark.parametrize("recipe", [{}, {"ema_decay": 0.7, "select": "best"}])
def test_training_has_the_same_bits_whether_it_is_observed_or_not(
    recipe: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Train.model_validate(SETTINGS.model_dump() | recipe)
    seen, unseen = tiny.method("afd"), tiny.method("afd")
    torch.manual_seed(2)
    expected = fit(seen, tmp_path / "seen", settings)
    drawn = torch.rand(1)
    monkeypatch.delattr(type(unseen), "observe")
    torch.manual_seed(2)
    came = fit(unseen, tmp_path / "unseen", settings)
    assert torch.equal(torch.rand(1), drawn)
    assert_same(weights(seen), weights(unseen))
    assert [record.keys() ^ {"attention"} for record in expected.history] == [record.keys() for record in came.history]
    assert [record["val"] for record in came.history] == [record["val"] for record in expected.history]


def test_a_large_validation_batch_is_looked_at_in_parts_of_the_batch_size(tmp_path: Path) -> None:
    method = tiny.method("afd")
    sizes: list[int] = []
    features = method.student.features

    def noting(images: torch.Tensor) -> Any:
        if not method.training:
            sizes.append(len(images))
        return features(images)

    method.student.features = noting  # type: ignore[method-assign]
    settings = SETTINGS.model_copy(update={"epochs": 1, "batch_size": 6, "drop_last": True})
    engine.fit(method, tiny.feed(), tiny.feed(32), settings, AUGMENT, 0, Resume(tmp_path / "s", "k"), lambda r: None)
    assert sizes == [6, 5, 5]
