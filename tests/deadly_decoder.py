"""Decoding process of tests, in which some images do what a fault of a decoder would: end it, stop it or hold it."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from child_processes import KILL
from loupe.config.size import Size
from loupe.data.pixels.decode import UInt8Array, load
from loupe.serve import decoder_process

MARK = b"order "


def die() -> None:
    os.kill(os.getpid(), KILL)
    time.sleep(60)


def die_once(file: str) -> None:
    if not Path(file).exists():
        Path(file).touch()
        die()


def stop_once(file: str) -> None:
    if not Path(file).exists():
        Path(file).touch()
        os.kill(os.getpid(), signal.SIGSTOP)


def fail() -> None:
    raise IndexError("at byte 7")


ORDERS: dict[str, Callable[..., None]] = {
    "die": die,
    "die once": die_once,
    "stop once": stop_once,
    "sleep": time.sleep,
    "print": print,
    "fail": fail,
}


def order(name: str, *arguments: Any) -> bytes:
    """Content of an image that has the process do something, and then has pixels that are all 1."""
    return MARK + json.dumps([name, *map(str, arguments)] if name != "sleep" else [name, *arguments]).encode()


def serve() -> None:
    """Main loop of the process."""
    decoder_process.load = obeying
    decoder_process.serve()


def obeying(data: bytes, path: str, **settings: Any) -> UInt8Array:
    if not data.startswith(MARK):
        return load(data, path, **settings)
    name, *arguments = json.loads(data.removeprefix(MARK))
    ORDERS[name](*arguments)
    return np.ones((*Size.of(settings["load_px"]), settings["channels"]), np.uint8)
