"""Batcher over a real model: who shares a batch, who waits, who is turned away, and that answers are never mixed."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from serve.errors import ClientLeft, DeadlineExceeded, InputError, ModelError, Overloaded, TooLarge
from serve.http.batching import Batcher, Batching
from serve.http.metrics import Metrics
from serve.model.classifier import OnnxClassifier
from tests import tiny_onnx

METRICS = Metrics()


class Watched(OnnxClassifier):
    """A real model that notes the size of every batch and computes none while its gate is shut."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, device="cpu")
        self.sizes: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def outputs(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        answer = super().outputs(pixels)
        self.sizes.append(len(pixels))
        assert self.gate.wait(20)
        return answer


@pytest.fixture
def model(tmp_path: Path) -> Watched:
    return Watched(tiny_onnx.write(tmp_path / "student.onnx"))


def images(n: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def run(model: Watched, use: Callable[[Batcher], Awaitable[None]], **settings: float) -> None:
    """Use a batcher on a loop of its own, and close it."""

    async def main() -> None:
        batcher = Batcher(model, Batching(**settings), METRICS.of_model("student"))  # type: ignore[arg-type]
        try:
            await use(batcher)
        finally:
            model.gate.set()
            await batcher.close()
            assert batcher.num_waiting == 0

    asyncio.run(asyncio.wait_for(main(), 30))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_every_request_gets_its_own_answer(model: Watched) -> None:
    async def use(batcher: Batcher) -> None:
        requests = [images(1 + seed % 5, seed) for seed in range(200)]
        answers = await asyncio.gather(*map(batcher, requests))
        for pixels, (probabilities, logits) in zip(requests, answers, strict=True):
            np.testing.assert_allclose(logits, tiny_onnx.expected_logits(pixels), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)

    run(model, use, max_batch=16, num_threads=2, max_queue=1000)
    assert sum(model.sizes) == sum(1 + seed % 5 for seed in range(200))
    assert max(model.sizes) <= 16
    assert len(model.sizes) < 200


def test_a_lone_request_does_not_wait_and_the_rest_share_a_batch(model: Watched) -> None:
    async def use(batcher: Batcher) -> None:
        model.gate.clear()
        tasks = [asyncio.create_task(batcher(images(seed=seed))) for seed in range(6)]
        await until(lambda: model.sizes == [1])
        assert batcher.num_waiting == 5
        model.gate.set()
        await asyncio.gather(*tasks)
        assert model.sizes == [1, 4, 1]

    run(model, use, max_batch=4, max_delay_ms=1e6)


def test_a_full_batch_starts_beside_a_running_one(model: Watched) -> None:
    async def use(batcher: Batcher) -> None:
        model.gate.clear()
        tasks = [asyncio.create_task(batcher(images(seed=seed))) for seed in range(5)]
        await until(lambda: sorted(model.sizes) == [1, 4])  # two threads: either may note its batch first
        model.gate.set()
        await asyncio.gather(*tasks)

    run(model, use, max_batch=4, num_threads=2, max_delay_ms=1e6)


def test_after_the_delay_a_batch_starts_beside_a_running_one(model: Watched) -> None:
    async def use(batcher: Batcher) -> None:
        model.gate.clear()
        tasks = [asyncio.create_task(batcher(images())) for _ in range(2)]
        await until(lambda: model.sizes == [1, 1])  # by the delay alone: the gate is still shut
        model.gate.set()
        await asyncio.gather(*tasks)

    run(model, use, max_batch=4, num_threads=2, max_delay_ms=20)


def test_without_the_delay_being_over_nobody_starts_beside_a_running_batch(model: Watched) -> None:
    async def use(batcher: Batcher) -> None:
        model.gate.clear()
        tasks = [asyncio.create_task(batcher(images(seed=seed))) for seed in range(4)]
        await until(lambda: model.sizes == [1])
        await asyncio.sleep(0.02)
        assert (model.sizes, batcher.num_waiting) == ([1], 3)
        model.gate.set()
        await asyncio.gather(*tasks)
        assert model.sizes == [1, 3]

    run(model, use, max_batch=4, num_threads=3, max_delay_ms=1e6)


def test_more_images_than_a_batch_are_computed_in_several_calls(model: Watched) -> None:
    async def use(batcher: Batcher) -> None:
        pixels = images(10)
        _, logits = await batcher(pixels)
        np.testing.assert_allclose(logits, tiny_onnx.expected_logits(pixels), rtol=1e-4, atol=1e-5)
        assert model.sizes == [4, 4, 2]
        with pytest.raises(TooLarge, match=r"11 images are more than the 10 of one request; send fewer\."):
            await batcher(images(11))

    run(model, use, max_batch=4, max_images=10)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((1, 8, 8, 3)), np.zeros((1, 8, 9, 3), np.uint8), np.zeros((0, 8, 8, 3), np.uint8), np.uint8(3)],
)
def test_unfit_pixels_are_refused_before_they_wait(model: Watched, pixels: np.ndarray) -> None:
    async def use(batcher: Batcher) -> None:
        with pytest.raises(InputError, match="pixels must"):
            await batcher(pixels)

    run(model, use)
    assert model.sizes == []


def test_a_full_queue_turns_requests_away(model: Watched) -> None:
    async def use(batcher: Batcher) -> None:
        model.gate.clear()
        tasks = [asyncio.create_task(batcher(images(seed=seed))) for seed in range(4)]
        await until(lambda: model.sizes == [1])
        with pytest.raises(Overloaded, match="3 images wait already"):
            await batcher(images())
        model.gate.set()
        await asyncio.gather(*tasks)
        await batcher(images(9))  # more than may wait, but nobody does

    run(model, use, max_queue=3)


def test_late_and_left_requests_give_their_slots_back(model: Watched) -> None:
    async def use(batcher: Batcher) -> None:
        model.gate.clear()
        running = asyncio.create_task(batcher(images(seed=1)))
        await until(lambda: model.sizes == [1])
        late, left = asyncio.create_task(batcher(images(3), deadline_ms=5)), asyncio.create_task(batcher(images(2)))
        stays = asyncio.create_task(batcher(images(2, seed=2)))
        with pytest.raises(DeadlineExceeded, match=r"no answer within 5 ms; try again later\."):
            await late
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        assert batcher.num_waiting == 2
        model.gate.set()
        for seed, task in ((1, running), (2, stays)):
            _, logits = await task
            expected = tiny_onnx.expected_logits(images(len(logits), seed))
            np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
        assert model.sizes == [1, 2]

    run(model, use, deadline_ms=1e6)


def test_nothing_is_computed_for_clients_that_left_the_queue(model: Watched) -> None:
    async def use(batcher: Batcher) -> None:
        model.gate.clear()
        running = asyncio.create_task(batcher(images(seed=1)))
        await until(lambda: model.sizes == [1])
        left = asyncio.create_task(batcher(images(3), is_left=lambda: True))
        stays = asyncio.create_task(batcher(images(2, seed=2), is_left=lambda: False))
        await until(lambda: batcher.num_waiting == 5)
        model.gate.set()
        with pytest.raises(ClientLeft):
            await left
        np.testing.assert_allclose((await stays)[1], tiny_onnx.expected_logits(images(2, 2)), rtol=1e-4, atol=1e-5)
        await running
        assert model.sizes == [1, 2]

    run(model, use)


def test_a_queue_full_of_clients_that_left_turns_nobody_away(model: Watched) -> None:
    async def use(batcher: Batcher) -> None:
        model.gate.clear()
        running = asyncio.create_task(batcher(images(seed=1)))
        await until(lambda: model.sizes == [1])
        left = [asyncio.create_task(batcher(images(2), is_left=lambda: True)) for _ in range(2)]
        await until(lambda: batcher.num_waiting == 4)
        stays = asyncio.create_task(batcher(images(3, seed=2)))
        assert [type(each) for each in await asyncio.gather(*left, return_exceptions=True)] == [ClientLeft] * 2
        assert batcher.num_waiting == 3
        model.gate.set()
        np.testing.assert_allclose((await stays)[1], tiny_onnx.expected_logits(images(3, 2)), rtol=1e-4, atol=1e-5)
        await running

    run(model, use, max_queue=4)


def test_those_that_leave_a_running_batch_shift_nobody(model: Watched) -> None:
    async def use(batcher: Batcher) -> None:
        model.gate.clear()
        tasks = [asyncio.create_task(batcher(images(1 + seed, seed))) for seed in range(4)]
        await until(lambda: sorted(model.sizes) == [1, 9])
        tasks[2].cancel()
        await asyncio.wait([tasks[2]])
        model.gate.set()
        for seed in (0, 1, 3):
            _, logits = await tasks[seed]
            expected = tiny_onnx.expected_logits(images(1 + seed, seed))
            np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)

    run(model, use, max_batch=9, num_threads=2, max_delay_ms=1e6)


def test_a_failing_model_fails_its_batch_and_nothing_else(model: Watched) -> None:
    async def use(batcher: Batcher) -> None:
        model.gate.wait = lambda timeout: 1 / 0  # type: ignore[method-assign]
        with pytest.raises(ZeroDivisionError):
            await batcher(images())
        del model.gate.wait
        await batcher(images())

    run(model, use)


@pytest.mark.parametrize(("max_batch", "sizes"), [(1, [1]), (5, [1, 2, 4, 5]), (16, [1, 2, 4, 8, 16])])
def test_warm_up_computes_powers_of_two_and_the_largest_batch(model: Watched, max_batch: int, sizes: list[int]) -> None:
    Batcher(model, Batching(max_batch=max_batch), METRICS.of_model("student")).warm_up()
    assert model.sizes == sizes


def test_a_model_that_cannot_compute_a_batch_is_named(model: Watched) -> None:
    model.gate.wait = lambda timeout: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ModelError, match=r"student cannot compute a batch of 1 \(division by zero\); try a smaller"):
        Batcher(model, Batching(), METRICS.of_model("student")).warm_up()
