"""Explanations one at a time, whether or not their requests are given up."""

import asyncio
import threading

import numpy as np
import pytest

from loupe.serve.evidence import Explainer

GRID = np.ones((2, 2), np.float32)


def test_an_explanation_that_is_given_up_keeps_its_turn_until_it_is_done():
    async def work():
        explainer, may_end, done = Explainer(), threading.Event(), []

        def slow():
            may_end.wait(10)
            done.append("first")
            return GRID

        def fast():
            done.append("second")
            return GRID

        first = asyncio.create_task(explainer._in_turn(slow))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(explainer._in_turn(fast))
        third = asyncio.create_task(explainer._in_turn(fast))
        await asyncio.sleep(0.01)
        first.cancel()
        third.cancel()
        await asyncio.sleep(0.01)
        assert done == [] and first.cancelled() and third.cancelled()
        may_end.set()
        assert (await second).shape == (2, 2)
        assert done == ["first", "second"]

    asyncio.run(work())


def test_a_failure_gives_its_turn_to_the_next():
    async def work():
        explainer = Explainer()
        with pytest.raises(ZeroDivisionError):
            await explainer._in_turn(lambda: GRID / (1 // 0))
        assert (await explainer._in_turn(lambda: GRID)).shape == (2, 2)

    asyncio.run(work())
