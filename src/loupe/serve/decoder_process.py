"""Child process that decodes images for the server (`decoders.py`), with no state between two of them.

A request is pickled settings and the bytes of an image file, an answer pixels or a reason as bytes of stated length: a
decoder that a hostile image has taken over can send wrong pixels, but nothing that the server would run.
"""

import os
import pickle
import signal
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO

from loupe.data.pixels.decode import DecoderSettings, load
from loupe.data.processes import open_answers
from loupe.errors import ImageError

REQUEST = struct.Struct("<IQ")
"""Lengths of the settings and of the image file."""

ANSWER = struct.Struct("<?I")
"""True before pixels and False before a reason, and its length."""

MOST_REASON_BYTES = 4096

READY = b"+"
"""First byte that a child sends, when it can decode."""

_OOM_SCORE = "500"
_PIPE_BYTES = 2**18  # hold the pixels of an image of 224 px; Linux' 64 KiB make three turns of them


def serve() -> None:
    """Main loop of the child: decode images until the parent closes the pipe or exits."""
    for name in ("SIGTERM", "SIGHUP"):  # a service manager signals all processes; the server answers what it has taken
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    with suppress(OSError):  # where memory is short, Linux ends this process before the server
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE, encoding="ascii")
    requests, answers = sys.stdin.buffer, open_answers()
    _widen(answers)
    _silence()
    with suppress(OSError):
        answers.write(READY)
        answers.flush()
        while len(lengths := requests.read(REQUEST.size)) == REQUEST.size:
            answers.write(_answer(requests, *REQUEST.unpack(lengths)))
            answers.flush()
    os._exit(0)  # without the interpreter's tidying up, which takes longer than the server should wait


def _widen(pipe: IO[bytes]) -> None:
    """Enlarge the buffer of a pipe, where the system allows it."""
    if sys.platform == "linux":
        import fcntl

        with suppress(OSError):
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _silence() -> None:
    """Drop what libraries print of an image, such as its metadata: it does not belong in the log of a server."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(nowhere, output)


def _answer(requests: IO[bytes], settings_bytes: int, file_bytes: int) -> bytes:
    settings: DecoderSettings = pickle.loads(requests.read(settings_bytes))
    try:
        pixels = load(requests.read(file_bytes), "", **settings).tobytes()
    except Exception as error:  # hostile files find faults in code that should raise nothing else
        text = error.reason if isinstance(error, ImageError) else f"{type(error).__name__}: {error}"
        reason = text.encode(errors="replace")[:MOST_REASON_BYTES]
        return ANSWER.pack(False, len(reason)) + reason
    return ANSWER.pack(True, len(pixels)) + pixels
