"""Decoding of uploads in processes that may end, be stopped or hang at any image."""

import io
import os
import signal
import struct
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from PIL import Image

import deadly_decoder
from bombs import png_chunk
from builders import picture
from child_processes import KILL, start
from deadly_decoder import order
from loupe.data.pixels.decode import DecoderSettings, load
from loupe.errors import ConfigError, ImageError
from loupe.serve import decoders as module
from loupe.serve.decoders import Decoders
from loupe.serve.refusals import Refusal

SETTINGS = DecoderSettings(
    load_px=(20, 30), resize="crop", interpolation="bilinear", levels=None, channels=3, definition=2
)
RNG = np.random.default_rng(3)
RGB_HW3 = RNG.integers(0, 256, (53, 47, 3), dtype=np.uint8)
posix = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


class Pool:
    """Two decoding processes in an event loop of another thread."""

    def __init__(self, portal: BlockingPortal, decoders: Decoders) -> None:
        self.portal, self.decoders = portal, decoders

    def submit(self, data, name="x", settings=SETTINGS):
        """Future of the pixels of an image."""
        return self.portal.start_task_soon(self.decoders.decode, data, name, settings)

    def decode(self, data, name="x", settings=SETTINGS):
        return self.submit(data, name, settings).result(60)

    def become_whole(self, *lost: int) -> None:
        """Wait until there are two processes again, without those that were lost."""
        until(lambda: len(self.decoders.pids) == 2 and not {*lost} & {*self.decoders.pids})


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def shared():
    with pytest.MonkeyPatch.context() as patch, start_blocking_portal("asyncio") as portal:
        patch.setattr(module, "MODULE", deadly_decoder.__name__)
        decoders = Decoders(2)
        portal.call(decoders.start)
        yield Pool(portal, decoders)
        pids = decoders.pids
        portal.call(decoders.close)
        assert os.name == "nt" or not any(map(is_there, pids))


@pytest.fixture
def pool(shared):
    yield shared
    shared.become_whole()


def is_there(pid: int) -> bool:
    """True for a process that runs, or that has ended and that nobody has waited for."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def encoded(kind: str, image: Image.Image | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    (image or Image.fromarray(RGB_HW3)).save(buffer, kind, **options)
    return buffer.getvalue()


# --- pixels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF", "PPM", "TGA"])
def test_pixels_are_those_of_the_decoder(pool, kind):
    data = encoded(kind)
    np.testing.assert_array_equal(pool.decode(data), load(data, "x", **SETTINGS))


@pytest.mark.parametrize(
    "changed",
    [
        {"load_px": 224, "definition": 1},
        {"channels": 1, "resize": "pad"},
        {"levels": (100, 9000), "interpolation": "nearest"},
    ],
)
def test_settings_reach_the_decoder(pool, changed):
    settings = SETTINGS | changed
    deep = Image.fromarray(RNG.integers(0, 2**16, (300, 400), dtype=np.uint16))
    data = encoded("PNG", deep) if "levels" in changed else encoded("JPEG")
    pixels = pool.decode(data, settings=settings)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, load(data, "x", **settings))


DAMAGED = {
    "empty": b"",
    "text": b"<html>",
    "JPEG": encoded("JPEG")[:900],
    "PNG": encoded("PNG")[:-20],
    "WebP": encoded("WebP")[:200],
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_damaged_images_are_errors_with_the_reason_of_the_decoder(pool, data):
    with pytest.raises(ImageError) as expected:
        load(data, "härm <b>.png", **SETTINGS)
    with pytest.raises(ImageError) as found:
        pool.decode(data, "härm <b>.png")
    assert (found.value.path, found.value.reason) == (expected.value.path, expected.value.reason)


def test_an_image_of_too_many_pixels_is_refused_by_its_header(pool):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(100))) + png_chunk(b"IEND", b"")
    began = time.monotonic()
    with pytest.raises(ImageError, match="50000 x 50000"):
        pool.decode(data)
    assert time.monotonic() - began < 1


def test_a_file_larger_than_the_pipe_arrives_whole(pool):
    data = encoded("BMP", Image.fromarray(RNG.integers(0, 256, (700, 900, 3), dtype=np.uint8)))
    np.testing.assert_array_equal(pool.decode(data), load(data, "x", **SETTINGS))


def test_many_images_at_once_come_back_in_their_places(pool):
    waiting = [pool.submit(picture(color)) for color in range(200)]
    assert [int(one.result(60)[0, 0, 0]) for one in waiting] == list(range(200))


def test_output_of_libraries_does_not_mix_with_pixels(pool):
    assert (pool.decode(order("print", "words")) == 1).all()


def test_a_fault_of_the_decoder_is_an_error_of_its_image(pool):
    before = pool.decoders.pids
    with pytest.raises(ImageError) as found:
        pool.decode(order("fail"), "bad.png")
    assert (found.value.path, found.value.reason) == ("bad.png", "IndexError: at byte 7")
    assert pool.decoders.pids == before


# --- processes that end -------------------------------------------------------------------------------------------


def test_an_image_whose_process_is_killed_is_decoded_by_another_one(pool, tmp_path):
    before = {*pool.decoders.pids}
    waiting = [pool.submit(picture(color)) for color in range(40)]
    waiting.insert(20, pool.submit(order("die once", tmp_path / "died")))
    first = [int(one.result(60)[0, 0, 0]) for one in waiting]
    assert first == [*range(20), 1, *range(20, 40)]
    assert (tmp_path / "died").exists()
    pool.become_whole()
    assert len(before & {*pool.decoders.pids}) == 1


@posix
def test_a_service_manager_that_ends_all_processes_leaves_them_to_the_server(pool):
    before = pool.decoders.pids
    for pid in before:
        os.kill(pid, signal.SIGTERM)
    waiting = [pool.submit(picture(color)) for color in range(20)]
    assert [int(one.result(60)[0, 0, 0]) for one in waiting] == list(range(20))
    assert pool.decoders.pids == before


@pytest.mark.slow
def test_an_image_that_ends_two_processes_is_an_error_and_no_other_one_is(pool):
    before = pool.decoders.pids
    bad = pool.submit(order("die"), "bad.png")
    good = [pool.submit(picture(color)) for color in range(100)]
    with pytest.raises(ImageError) as found:
        bad.result(60)
    assert (found.value.path, found.value.reason) == ("bad.png", "its decoding ended the process that decoded it")
    assert [int(one.result(60)[0, 0, 0]) for one in good] == list(range(100))
    pool.become_whole()
    assert len({*before} & {*pool.decoders.pids}) == 1


@pytest.mark.slow
def test_all_processes_killed_at_once_lose_no_image(pool):
    before = pool.decoders.pids
    waiting = [pool.submit(order("sleep", 2)), pool.submit(order("sleep", 2))]
    waiting += [pool.submit(picture(1)) for _ in range(50)]
    time.sleep(0.1)
    for pid in before:
        with suppress(ProcessLookupError):  # one that the pool has replaced already
            os.kill(pid, KILL)
    assert [int(one.result(60)[0, 0, 0]) for one in waiting] == [1] * 52
    assert not {*before} & {*pool.decoders.pids}


@pytest.mark.slow
@posix
def test_a_process_that_ends_idle_is_replaced_before_it_is_needed(pool):
    lost = pool.decoders.pids[0]
    os.kill(lost, KILL)
    pool.become_whole(lost)
    assert not is_there(lost)


@pytest.mark.slow
def test_a_process_that_hangs_is_ended_with_its_image_alone(pool, monkeypatch):
    before = pool.decoders.pids
    monkeypatch.setattr(module, "ALLOWED_SECONDS", 0.4)
    hung, good = pool.submit(order("sleep", 60), "hung.png"), pool.submit(picture(7))
    with pytest.raises(ImageError, match=r"0\.4 s") as found:
        hung.result(20)
    assert found.value.path == "hung.png"
    assert good.result(20)[0, 0, 0] == 7
    until(lambda: before != pool.decoders.pids)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "waitid"), reason="a stopped process cannot be told here")
def test_the_image_of_a_process_that_is_stopped_is_decoded_by_another_one(pool, tmp_path):
    before = pool.decoders.pids
    assert (pool.decode(order("stop once", tmp_path / "stopped")) == 1).all()
    pool.become_whole()
    assert len({*before} & {*pool.decoders.pids}) == 1


# --- requests that end --------------------------------------------------------------------------------------------


def test_cancelled_images_leave_their_processes_in_step(pool):
    before = pool.decoders.pids
    held = [pool.submit(order("sleep", 0.1)) for _ in range(2)]
    cancelled = [pool.submit(picture(color)) for color in range(100, 120)]
    waiting = [pool.submit(picture(color)) for color in range(20)]
    time.sleep(0.02)
    for one in [*held, *cancelled]:
        one.cancel()
    assert [int(one.result(60)[0, 0, 0]) for one in waiting] == list(range(20))
    for one in [*held, *cancelled]:
        with pytest.raises(CancelledError):
            one.result()
    assert pool.decoders.pids == before
    assert not pool.decoders._waiting


@pytest.mark.slow
@posix
def test_close_leaves_no_process_and_refuses_what_waits(monkeypatch):
    monkeypatch.setattr(module, "MODULE", deadly_decoder.__name__)
    with start_blocking_portal("asyncio") as portal:
        decoders = Decoders(1)
        portal.call(decoders.start)
        own = Pool(portal, decoders)
        waiting = [own.submit(order("sleep", 60)), own.submit(picture())]
        (pid,) = decoders.pids
        time.sleep(0.05)
        portal.call(decoders.close)
        assert not is_there(pid) and decoders.pids == []
        for image in [*waiting, own.submit(picture())]:
            with pytest.raises(Refusal) as found:
                image.result(20)
            assert found.value.status == 503


def test_a_process_that_cannot_start_is_an_error(monkeypatch):
    monkeypatch.setattr(module, "MODULE", "no_such_module")
    with start_blocking_portal("asyncio") as portal, pytest.raises(ConfigError, match="could not be started"):
        portal.call(Decoders(2).start)


PARENT = """
import asyncio, sys
from loupe.serve.decoders import Decoders
async def main():
    decoders = Decoders(2)
    await decoders.start()
    print(*decoders.pids, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.slow
@posix
def test_processes_end_with_a_server_that_is_killed():
    parent = start(PARENT)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(map(is_there, pids))
    parent.kill()
    parent.communicate(timeout=60)
    until(lambda: not any(map(is_there, pids)))


# --- their size ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_process_imports_no_library_of_training():
    child = start("import sys, loupe.serve.decoder_process; print(*{name.split('.')[0] for name in sys.modules})")
    found = {*child.communicate(timeout=60)[0].split()}
    assert {"PIL", "numpy"} <= found
    heavy = {"torch", "torchvision", "timm", "pyarrow", "sklearn", "scipy", "pandas", "matplotlib", "asyncio"}
    assert not heavy & found


@pytest.mark.slow
@linux
def test_the_memory_of_a_process_does_not_grow(pool):
    sides = RNG.integers(20, 1200, (60, 2))
    files = [encoded(kind, Image.effect_noise((int(w), int(h)), 50)) for w, h in sides for kind in ("JPEG", "PNG")]
    damaged = [data[: len(data) // 2] for data in files]

    def pass_over() -> int:
        waiting = [pool.submit(data) for data in [*files, *damaged]]
        assert sum(one.exception(60) is None for one in waiting) == len(files)
        return max(resident_bytes(pid) for pid in pool.decoders.pids)

    settled = [pass_over() for _ in range(3)][-1]
    assert [pass_over() for _ in range(5)][-1] < settled + 8 * 2**20


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
