"""Processes that have joined as the ranks of one command, for tests."""

import importlib
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
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


def results(count: int, function: str, *args: Any, seconds: float = 120, machines: int = 1) -> list[Any]:
    """Results of a function `module:name` of the tests in each rank: it gets the ranks and plain arguments."""
    context, port = multiprocessing.get_context(METHOD), free_port()
    context.set_forkserver_preload(LOADED)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setenv("OMP_NUM_THREADS", "1")  # of the process that all are forked from
        printed = [Path(folder, str(rank)) for rank in range(count)]
        given = [(environment(rank, count, port, machines), str(printed[rank])) for rank in range(count)]
        processes = [context.Process(target=_call, args=(*each, function, json.dumps(args))) for each in given]
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.join(seconds)
            codes = [process.exitcode for process in processes]
        finally:
            for process in processes:
                process.kill()
        texts = [path.read_text(encoding="utf-8") if path.exists() else "" for path in printed]
    for code, text in zip(codes, texts, strict=True):
        assert code == 0, text
    return [json.loads(text.splitlines()[-1]) for text in texts]


def _call(values: dict[str, str], printed: str, function: str, arguments: str) -> None:
    """In a rank: call the function; what it prints, and its result as the last line, are written to a file."""
    to = os.open(printed, os.O_WRONLY | os.O_CREAT)
    os.dup2(to, 1)
    os.dup2(to, 2)
    os.environ.clear()
    os.environ.update(values)
    sys.path[:0] = values["PYTHONPATH"].split(os.pathsep)
    torch.set_num_threads(1)
    module, _, name = function.partition(":")
    with ranks.joined() as joined:
        found = getattr(importlib.import_module(module), name)(joined, *json.loads(arguments))
    print(json.dumps(found), flush=True)
