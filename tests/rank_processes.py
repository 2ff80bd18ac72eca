"""Processes that have joined as the ranks of one command, for tests."""

import importlib
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from loupe import ranks

PROJECT = Path(__file__).parents[1]
# Ranks that call a function of the tests are forked from a process that has loaded PyTorch, where the system can fork.
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
LOADED = ["loupe.runs.session", "loupe.training.loop", "numpy", "pytest", "sklearn.datasets", "timm", "torch"]


def environment(rank: int, count: int, port: int, machines: int = 1) -> dict[str, str]:
    """Environment of a rank, as torchrun sets it on so many machines, with one thread for each rank."""
    local = count // machines
    ranks = {"RANK": rank, "LOCAL_RANK": rank % local, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": local}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    paths = os.pathsep.join([str(PROJECT / "src"), str(PROJECT / "tests")])
    return {**os.environ, "PYTHONPATH": paths, **{name: str(value) for name, value in {**ranks, **place}.items()}}


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def started(count: int, words: Sequence[str], *, machines: int = 1, **options: Any) -> list[subprocess.Popen[str]]:
    """Processes of a Python command line, such as ["-m", "loupe", "train", ...], one for each rank."""
    port, options = free_port(), {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return [
        subprocess.Popen([sys.executable, *words], env=environment(rank, count, port, machines), text=True, **options)
        for rank in range(count)
    ]


@dataclass(frozen=True)
class Rank:
    """Process that calls a function of the tests as one of several ranks.

    Attributes:
        process: the process.
        printed, errors: files of its standard output and error.
    """

    process: Any
    printed: Path
    errors: Path

    def end(self, seconds: float) -> tuple[int | None, str, str]:
        """Wait for it; return its exit code, and what it printed to standard output and error."""
        self.process.join(seconds)
        return self.process.exitcode, *(file.read_text("utf-8") for file in (self.printed, self.errors))


@contextmanager
def calling(count: int, function: str, *args: Any, machines: int = 1) -> Iterator[list[Rank]]:
    """Context with ranks that call a function `module:name` of the tests, with the ranks and plain arguments.

    Each prints its result as a line of JSON.
    """
    context, port = multiprocessing.get_context(METHOD), free_port()
    context.set_forkserver_preload(LOADED)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setenv("OMP_NUM_THREADS", "1")  # of the process that all are forked from
        started: list[Rank] = []
        try:
            for rank in range(count):
                files = Path(folder, f"{rank}.out"), Path(folder, f"{rank}.err")
                for file in files:
                    file.touch()
                given = environment(rank, count, port, machines), [str(file) for file in files], function
                process = context.Process(target=_call, args=(*given, json.dumps(args)))
                process.start()
                started.append(Rank(process, *files))
            yield started
        finally:
            for each in started:
                each.process.kill()


def results(count: int, function: str, *args: Any, seconds: float = 120, machines: int = 1) -> list[Any]:
    """Results of a function `module:name` of the tests in each rank: it gets the ranks and plain arguments."""
    with calling(count, function, *args, machines=machines) as called:
        ended = [rank.end(seconds) for rank in called]
    for code, _, errors in ended:
        assert code == 0, errors
    return [json.loads(printed.splitlines()[-1]) for _, printed, _ in ended]


def _call(values: dict[str, str], files: Sequence[str], function: str, arguments: str) -> None:
    """In a rank: call the function."""
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY), number)
    os.environ.clear()
    os.environ.update(values)
    sys.path[:0] = values["PYTHONPATH"].split(os.pathsep)
    torch.set_num_threads(1)
    module, _, name = function.partition(":")
    with ranks.joined() as joined:
        found = getattr(importlib.import_module(module), name)(joined, *json.loads(arguments))
    print(json.dumps(found), flush=True)
