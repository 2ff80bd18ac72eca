"""Work for a client that goes away is cancelled; all other work is finished."""

import asyncio
from types import SimpleNamespace

import pytest
from starlette.requests import ClientDisconnect

from loupe.serve.disconnects import unless_gone


def request(messages):
    """Request that receives some messages, and then waits."""
    left = list(messages)

    async def receive():
        if not left:
            await asyncio.Event().wait()
        return {"type": left.pop(0)}

    return SimpleNamespace(receive=receive)


def test_work_is_cancelled_when_the_client_goes():
    async def test():
        was_cancelled = []

        async def work():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                was_cancelled.append(True)
                raise

        with pytest.raises(ClientDisconnect):
            await unless_gone(request(["http.request", "http.disconnect"]), work())
        await asyncio.sleep(0)
        return was_cancelled

    assert asyncio.run(test()) == [True]


@pytest.mark.parametrize("messages", [[], ["http.request"]])
def test_the_result_of_work_is_given(messages):
    async def work():
        await asyncio.sleep(0.001)
        return 5

    assert asyncio.run(unless_gone(request(messages), work())) == 5


def test_an_error_of_the_work_is_raised():
    async def work():
        raise KeyError("x")

    with pytest.raises(KeyError):
        asyncio.run(unless_gone(request([]), work()))


def test_cancelling_the_request_cancels_the_work():
    async def test():
        ended = []

        async def work():
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(True)

        task = asyncio.create_task(unless_gone(request([]), work()))
        await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        return ended

    assert asyncio.run(test()) == [True]
