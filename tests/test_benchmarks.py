"""What the benchmarks compare computes the same; how fast is for them to say."""

import torch

from benchmarks.plain import Images, PlainAttention, PlainLoop
from pipeline.distillation import afd
from pipeline.models.base import MapShape
from tests import tiny
from tests.golden import G, fill


def test_the_plain_attention_is_the_one_of_afd() -> None:
    shapes_s, shapes_t = (
        tuple(MapShape(*sizes) for sizes in network)
        for network in (((8, 8, 8), (8, 8, 8), (16, 4, 4)), ((16, 8, 8), (32, 4, 4), (32, 4, 4)))
    )
    ours, plain = fill(afd.Attention(shapes_s, shapes_t, 8)), fill(PlainAttention(shapes_s, shapes_t, 8))
    with torch.no_grad():
        plain.position_t.copy_(ours.position_t)
        plain.position_s.copy_(ours.position_s)
    maps_s, maps_t = ([G((6, *shape), 0.1 * i).relu() for i, shape in enumerate(x)] for x in (shapes_s, shapes_t))
    torch.testing.assert_close(plain(maps_s, maps_t), ours(maps_s, maps_t))


def test_the_plain_loop_trains_and_sees_every_image() -> None:
    method = tiny.method("afd")
    loop, data = PlainLoop(method, tiny.IMAGE_PX, 0.05, 0.9, 5e-4), Images(tiny.split(), tiny.NORMALIZATION)
    losses = [loop.step(tiny.batch()) for _ in range(5)]
    assert losses[-1] < losses[0]
    seen: list[int] = []
    loop.step = lambda batch: seen.extend(batch.positions.tolist()) or 0.0  # type: ignore[func-returns-value,method-assign]
    loop.epoch(data, 16, 0)
    assert sorted(seen) == list(range(64))
