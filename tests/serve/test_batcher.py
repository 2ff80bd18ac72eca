"""Adaptive batching: what waits is bounded, batches are what waited, and cancelled images are not computed."""

import asyncio
import threading

import numpy as np
import pytest

from loupe.errors import DivergedError
from loupe.serve import batcher as module
from loupe.serve.batcher import Batcher
from loupe.serve.metrics import Metrics
from loupe.serve.pace import Pace
from loupe.serve.refusals import Refusal


@pytest.fixture(autouse=True)
def _any_time(monkeypatch):
    """Batches may take as long as the test lets them."""
    monkeypatch.setattr(module, "BATCH_SECONDS", 1e6)


class Gate:
    """Engine that computes a batch each time it is opened; the logits of an image are its pixels."""

    name, batch_images, in_flight = "gate", 4, 1

    def __init__(self, *, is_open=False):
        self.batches: list[list[int]] = []
        self.opened = threading.Semaphore(10_000 if is_open else 0)

    def run(self, pixels):
        for x_BHWC in pixels:
            self.batches.append(x_BHWC[:, 0, 0, 0].tolist())
            assert self.opened.acquire(timeout=10)
            if 255 in x_BHWC:
                raise MemoryError("too little")
            yield x_BHWC[:, 0, 0].astype(np.float32)


def image(value):
    return np.full((1, 1, 3), value, np.uint8)


def batcher(engine, limit=8):
    return Batcher(engine, "model", limit, Metrics(["model"]))


async def asked(queue, *values):
    tasks = [asyncio.create_task(queue.logits(image(value))) for value in values]
    await asyncio.sleep(0)
    return tasks


def test_a_single_image_does_not_wait_and_what_waits_meanwhile_is_the_next_batch():
    async def work():
        queue = batcher(engine)
        tasks = await asked(queue, 1)
        while not engine.batches:
            await asyncio.sleep(0.001)
        tasks += await asked(queue, 2, 3, 4, 5, 6)
        engine.opened.release(3)
        answers = await asyncio.gather(*tasks)
        queue.close()
        return answers

    engine = Gate()
    answers = asyncio.run(work())
    assert [logits.tolist() for logits in answers] == [[value] * 3 for value in range(1, 7)]
    assert engine.batches == [[1], [2, 3, 4, 5], [6]]


def test_waiting_images_are_shared_out_over_free_threads():
    async def work():
        queue = batcher(engine)
        tasks = await asked(queue, 1, 2)
        while len(engine.batches) < 2:
            await asyncio.sleep(0.001)
        tasks += await asked(queue, 3, 4, 5, 6)
        engine.opened.release(100)
        await asyncio.gather(*tasks)
        queue.close()

    engine = Gate()
    engine.in_flight = 2
    asyncio.run(work())
    assert sorted(engine.batches[:2]) == [[1], [2]]
    assert sum(map(len, engine.batches)) == 6


def test_an_image_whose_request_is_cancelled_leaves_the_queue():
    async def work():
        queue = batcher(engine)
        tasks = await asked(queue, 1)
        while not engine.batches:
            await asyncio.sleep(0.001)
        tasks += await asked(queue, 2, 3)
        tasks[0].cancel()
        tasks[1].cancel()
        engine.opened.release(2)
        last = await tasks[2]
        queue.close()
        return last.tolist()

    engine = Gate()
    assert asyncio.run(work()) == [3, 3, 3]
    assert engine.batches == [[1], [3]]


def test_an_engine_that_fails_fails_its_batch_alone():
    async def work():
        queue = batcher(engine)
        first = await asyncio.gather(*await asked(queue, 255), return_exceptions=True)
        second = await asyncio.gather(*await asked(queue, 7))
        queue.close()
        return first[0], second[0].tolist()

    engine = Gate(is_open=True)
    error, logits = asyncio.run(work())
    assert isinstance(error, MemoryError)
    assert logits == [7, 7, 7]


def test_more_images_than_may_wait_are_refused_with_a_time_to_try_again():
    async def work():
        queue = batcher(Gate(), limit=3)
        later = asyncio.get_running_loop().time() + 10
        with queue.admit(3, later), pytest.raises(Refusal) as refused, queue.admit(1, later):
            pass
        assert queue.admitted == 0
        with queue.admit(5, later):  # a request alone is never too large for a queue
            pass
        queue.close()
        return refused.value

    refusal = asyncio.run(work())
    assert refusal.status == 429
    assert int(refusal.headers["Retry-After"]) >= 1


def test_a_request_that_would_wait_beyond_its_deadline_is_refused_at_once():
    async def work():
        queue = batcher(engine, limit=1000)
        engine.opened.release(1)
        await queue.logits(image(1))
        now = asyncio.get_running_loop().time()
        queue._pace.begin(now - 5)
        queue._pace.answered(50, now)  # 0.1 s each, as on a slow machine
        with queue.admit(50, now + 60):
            with pytest.raises(Refusal) as refused, queue.admit(1, now + 2):
                pass
            with queue.admit(1, now + 60):
                pass
        queue.close()
        return refused.value

    engine = Gate()
    refusal = asyncio.run(work())
    assert refusal.status == 429
    assert int(refusal.headers["Retry-After"]) == 6  # 51 images of 0.1 s


def test_batches_of_a_slow_network_stay_small(monkeypatch):
    async def work():
        queue = batcher(engine, limit=100)
        await asyncio.gather(*await asked(queue, 0))
        queue._seconds = 0.01  # as measured
        tasks = await asked(queue, *range(1, 8))
        await asyncio.gather(*tasks)
        queue.close()

    monkeypatch.setattr(module, "BATCH_SECONDS", 0.02)
    monkeypatch.setattr(module, "MEMORY", 1.0)
    engine = Gate(is_open=True)
    asyncio.run(work())
    assert engine.batches == [[0], [1], [2, 3], [4, 5], [6, 7]]


def test_an_output_that_is_not_finite_fails_its_image_alone():
    async def work():
        queue = batcher(engine)
        with np.errstate(all="ignore"):
            answers = await asyncio.gather(*await asked(queue, 1, 2), return_exceptions=True)
        queue.close()
        return answers

    class Diverged(Gate):
        def run(self, pixels):
            for logits_BK in super().run(pixels):
                yield np.where(logits_BK == 2, np.nan, logits_BK)

    engine = Diverged(is_open=True)
    first, second = asyncio.run(work())
    assert first.tolist() == [1, 1, 1]
    assert isinstance(second, DivergedError)


def test_the_pace_is_that_of_the_last_images_and_leaves_idle_time_out():
    pace = Pace()
    assert pace.each_seconds == 0
    pace.begin(100)
    for second in range(10):
        pace.answered(2, 101 + second)  # 2 images in each second
    assert pace.each_seconds == pytest.approx(0.5)
    pace.begin(500)
    pace.answered(1, 500.5)
    assert pace.each_seconds == pytest.approx(0.5)
    for number in range(400):
        pace.answered(1, 500.5 + 0.1 * (number + 1))
    assert pace.each_seconds == pytest.approx(0.1, rel=0.01)
