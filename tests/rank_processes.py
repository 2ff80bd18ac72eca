"""Processes that have joined as the ranks of one command, for tests."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
START = (
    "import importlib, json, sys\n"
    "from loupe import ranks\n"
    "module, _, name = sys.argv[1].partition(':')\n"
    "with ranks.joined() as joined:\n"
    "    found = getattr(importlib.import_module(module), name)(joined, *json.loads(sys.argv[2]))\n"
    "print(json.dumps(found))\n"
)


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
    processes = started(count, ["-c", START, function, json.dumps(args)], machines=machines)
    try:
        ended = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, err) in zip(processes, ended, strict=True):
        assert process.returncode == 0, err
    return [json.loads(out.splitlines()[-1]) for out, _ in ended]
