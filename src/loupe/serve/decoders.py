"""Child processes that decode the images of requests, for a server on asyncio.

Images are taken in the order in which they came, one at a time by each child. A child that ends (killed, crashed, out
of memory) or that is stopped is replaced at once. Its image is tried once more, by a child that is started afterwards:
an image that ends two of them is an ImageError, and all others are decoded as ever. A child that takes too long is
ended, and its image is an ImageError. When a request is cancelled, its child finishes and its pixels are dropped, so no
image gets those of another.
"""

import asyncio
import logging
import os
import pickle
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from loupe.config.size import Size
from loupe.data.pixels.decode import DecoderSettings, UInt8Array
from loupe.data.pixels.limits import MAX_SECONDS
from loupe.data.processes import command, is_stopped
from loupe.errors import ConfigError, ImageError
from loupe.serve.access_log import log
from loupe.serve.decoder_process import ANSWER, MOST_REASON_BYTES, READY, REQUEST
from loupe.serve.refusals import Refusal

MODULE = "loupe.serve.decoder_process"
ALLOWED_SECONDS = 3 * MAX_SECONDS
"""Longest time for an image on a machine whose cores are shared by several processes."""

_START_SECONDS = 60.0
_PAUSE_SECONDS = 1.0  # after a child that could not start
_WATCH_SECONDS = 0.5
_END_SECONDS = 1.0
_HELD_BYTES = 2**20


class Decoders:
    """Pool of child processes that decode images; used within one event loop."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._running: list[_Child] = []
        self._free: deque[_Child] = deque()
        self._images: set[_Image] = set()
        self._waiting: deque[_Image] = deque()
        self._again: deque[_Image] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def pids(self) -> list[int]:
        """Process numbers of the children that can decode."""
        return [child.pid for child in self._running]

    async def start(self) -> None:
        """Start the children, and wait until all can decode.

        Raises:
            ConfigError: a child could not be started.
        """
        loop = asyncio.get_running_loop()
        started: list[asyncio.Future[None]] = [loop.create_future() for _ in range(self._count)]
        for one in started:
            self._spawn(self._keep_child(one))
        if hasattr(os, "waitid"):
            self._spawn(self._watch())
        try:
            await asyncio.gather(*started)
        except BaseException:
            await self.close()
            raise

    async def decode(self, data: bytes, name: str, settings: DecoderSettings) -> UInt8Array:
        """Pixels of `data.pixels.decode.load`, from a child.

        Raises:
            ImageError: the image is damaged or too large, its decoding took too long, or it ended two children.
            Refusal: the children are closed.
        """
        if self._is_closed:
            raise _closing()
        shape = *Size.of(settings["load_px"]), settings["channels"]
        image = _Image(data, name, pickle.dumps(settings), shape, asyncio.get_running_loop().create_future())
        self._images.add(image)
        self._waiting.append(image)
        self._dispatch()
        try:
            return await image.pixels
        finally:
            self._images.discard(image)
            if image.pixels.cancelled():
                with suppress(ValueError):
                    self._waiting.remove(image)

    async def close(self) -> None:
        """End all children, and refuse the images that they have not decoded."""
        self._is_closed = True
        for image in self._images:
            image.fail(_closing())
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _dispatch(self) -> None:
        while self._free and self._waiting:
            self._spawn(self._decode(self._free.popleft(), self._waiting.popleft()))

    async def _decode(self, child: "_Child", image: "_Image") -> None:
        """Decode an image in a child, which is free again afterwards or is ended."""
        try:
            async with asyncio.timeout(ALLOWED_SECONDS):
                image.succeed(await child.decode(image))
        except ImageError as error:
            image.fail(error)
        except TimeoutError:
            image.fail(ImageError(image.name, f"its decoding took more than {ALLOWED_SECONDS:g} s and was ended"))
            child.kill()
            return
        except EOFError:
            if image.is_tried_again:
                image.fail(ImageError(image.name, "its decoding ended the process that decoded it"))
            else:
                self._again.append(image)
            return
        if child.is_running:
            self._free.append(child)
            self._dispatch()

    async def _keep_child(self, started: "asyncio.Future[None]") -> None:
        """Start a child, and another one whenever it has ended; `started` gets the result of the first start."""
        while True:
            try:
                child = await _Child.started()
            except (OSError, EOFError) as error:
                reason = f"a process that decodes images could not be started: {error or type(error).__name__}"
                if not started.done():
                    started.set_exception(ConfigError(f"{reason}. Give fewer with --decoders."))
                    return
                log(logging.WARNING, "no decoder", reason=reason)
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            if not started.done():
                started.set_result(None)
            self._running.append(child)
            self._begin(child)
            try:
                status = await child.wait()
            finally:
                self._running.remove(child)
                with suppress(ValueError):
                    self._free.remove(child)
                await child.end()
            log(logging.WARNING, "decoder ended", pid=child.pid, status=status)

    def _begin(self, child: "_Child") -> None:
        """Let a new child decode an image that has lost its first one, or any."""
        while self._again:
            image = self._again.popleft()
            if not image.pixels.done():
                image.is_tried_again = True
                self._spawn(self._decode(child, image))
                return
        self._free.append(child)
        self._dispatch()

    async def _watch(self) -> None:
        """End children that are stopped (SIGSTOP, a debugger).

        A child is ended when it is found stopped twice: on Ctrl-Z all processes stop and go on together.
        """
        before: set[int] = set()
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            stopped = {child.pid for child in self._running if is_stopped(child.pid)}
            for child in self._running:
                if child.pid in stopped & before:
                    child.kill()
            before = stopped


@dataclass(eq=False)
class _Image:
    """Image file that waits for its pixels: with its settings, pickled, and the shape of the pixels."""

    data: bytes
    name: str
    settings: bytes
    shape: tuple[int, int, int]
    pixels: asyncio.Future[UInt8Array]
    is_tried_again: bool = False

    def succeed(self, pixels: UInt8Array) -> None:
        if not self.pixels.done():  # else nobody waits for them
            self.pixels.set_result(pixels)

    def fail(self, error: Exception) -> None:
        if not self.pixels.done():
            self.pixels.set_exception(error)


class _Child(asyncio.SubprocessProtocol):
    """Child process, and what asyncio tells about it."""

    def __init__(self) -> None:
        self._ended, self._closed = asyncio.Event(), asyncio.Event()
        self._answers = asyncio.StreamReader(_HELD_BYTES, asyncio.get_running_loop())

    @classmethod
    async def started(cls) -> "_Child":
        """Child that can decode.

        Raises:
            OSError, EOFError: it cannot be started, or it has ended.
        """
        variables = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # NumPy would start threads that idle
        _, child = await asyncio.get_running_loop().subprocess_exec(
            cls, *command(MODULE), stderr=None, env={**os.environ, **variables}
        )
        try:
            async with asyncio.timeout(_START_SECONDS):
                await child._answers.readexactly(len(READY))
        except BaseException:
            await child.end()
            raise
        return child

    @property
    def pid(self) -> int:
        return self._transport.get_pid()

    @property
    def is_running(self) -> bool:
        return not self._ended.is_set()

    async def wait(self) -> int | None:
        """Wait until the process has ended, and return its status."""
        await self._ended.wait()
        return self._transport.get_returncode()

    async def decode(self, image: _Image) -> UInt8Array:
        """Pixels of an image.

        Raises:
            ImageError: the child cannot decode it.
            EOFError: the child has ended, or does not answer as it should.
        """
        self._requests.write(REQUEST.pack(len(image.settings), len(image.data)) + image.settings)
        self._requests.write(image.data)
        is_decoded, size = ANSWER.unpack(await self._answers.readexactly(ANSWER.size))
        if size != prod(image.shape) if is_decoded else size > MOST_REASON_BYTES:
            self.kill()
            raise EOFError
        content = await self._answers.readexactly(size)
        if not is_decoded:
            raise ImageError(image.name, content.decode(errors="replace"))
        return np.frombuffer(content, np.uint8).reshape(image.shape)

    def kill(self) -> None:
        """End the process, if it has not ended."""
        if self.is_running:
            with suppress(ProcessLookupError):
                self._transport.kill()

    async def end(self) -> None:
        """End the process, and wait until nothing of it is left."""
        self._transport.close()
        await self._closed.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        requests, answers = transport.get_pipe_transport(0), transport.get_pipe_transport(1)
        assert isinstance(requests, asyncio.WriteTransport) and answers is not None
        self._transport, self._requests = transport, requests
        self._answers.set_transport(answers)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._answers.feed_data(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            self._answers.feed_eof()
            asyncio.get_running_loop().call_later(_END_SECONDS, self.kill)  # by then it has usually ended by itself

    def process_exited(self) -> None:
        self._ended.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set()


def _closing() -> Refusal:
    return Refusal(503, "the server is being stopped")
