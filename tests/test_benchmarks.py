"""What the benchmarks compare computes the same; how fast is for them to say."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.plain import Images, PlainAttention, PlainLoop
from pipeline.distillation import afd
from pipeline.models.base import MapShape
from tests import tiny
from tests.golden import G, fill

Shapes = tuple[tuple[int, int, int], ...]
PAIRS: dict[str, tuple[Shapes, Shapes]] = {
    "same sizes": (((8, 8, 8), (8, 8, 8), (16, 4, 4)), ((16, 8, 8), (32, 4, 4), (32, 4, 4))),
    "other sizes": (((8, 6, 6), (16, 3, 3)), ((4, 8, 8), (8, 5, 5), (8, 5, 5), (16, 2, 2))),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_the_plain_attention_is_the_one_of_afd_and_that_of_its_formula(pair: str) -> None:
    shapes_s, shapes_t = (tuple(MapShape(*sizes) for sizes in network) for network in PAIRS[pair])
    ours, plain = fill(afd.Attention(shapes_s, shapes_t, 8)), fill(PlainAttention(shapes_s, shapes_t, 8))
    with torch.no_grad():
        plain.position_t.copy_(ours.position_t)
        plain.position_s.copy_(ours.position_s)
    maps_s, maps_t = ([G((6, *shape), 0.1 * i).relu() for i, shape in enumerate(x)] for x in (shapes_s, shapes_t))
    results = []
    for attention in (plain, ours, partial(_pair_by_pair, plain)):
        leaves = [x.clone().requires_grad_() for x in maps_s]
        loss = attention(leaves, maps_t)
        results.append((loss, *torch.autograd.grad(loss, leaves)))
    for other in results[1:]:
        for ours_or_plain, expected in zip(results[0], other, strict=True):
            torch.testing.assert_close(ours_or_plain, expected, rtol=1e-4, atol=1e-7)
    assert all(part.abs().max() > 1e-5 for part in results[0])


def _pair_by_pair(plain: PlainAttention, maps_s: list[Tensor], maps_t: list[Tensor]) -> Tensor:
    """The sum over teacher blocks t and student blocks s, term by term, with the weights of `plain`."""
    query = [embed(x.mean((2, 3))) for embed, x in zip(plain.queries, maps_t, strict=True)]
    key = torch.stack([embed(x.mean((2, 3))).relu() for embed, x in zip(plain.keys, maps_s, strict=True)], 1)
    bilinear = plain.bilinear(key.flatten(0, 1)).view(*key.shape[:2], len(maps_t), -1)
    loss = torch.zeros(())
    for t, map_t in enumerate(maps_t):
        energy_t = functional.normalize(map_t.pow(2).mean(1).flatten(1), dim=1)
        logits, distances = [], []
        for s, map_s in enumerate(maps_s):
            product = (bilinear[:, s, t] * query[t]).sum(1) + plain.position_t[t] @ plain.position_s[s]
            logits.append(product / bilinear.shape[3] ** 0.5)
            energy_s = functional.adaptive_avg_pool2d(map_s.pow(2).mean(1), tuple(map_t.shape[2:]))
            distances.append((functional.normalize(energy_s.flatten(1), dim=1) - energy_t).pow(2).mean(1))
        loss = loss + (torch.stack(logits, 1).softmax(1) * torch.stack(distances, 1)).sum(1).mean()
    return loss


def test_the_plain_loop_trains_and_sees_every_image() -> None:
    method = tiny.method("afd")
    loop, data = PlainLoop(method, tiny.IMAGE_PX, 0.05, 0.9, 5e-4), Images(tiny.split(), tiny.NORMALIZATION)
    losses = [loop.step(tiny.batch()) for _ in range(5)]
    assert losses[-1] < losses[0]
    seen: list[int] = []
    loop.step = lambda batch: seen.extend(batch.positions.tolist()) or 0.0  # type: ignore[func-returns-value,method-assign]
    loop.epoch(data, 16, 0)
    assert sorted(seen) == list(range(64))
