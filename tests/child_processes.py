"""Child processes of tests, which are killed or held at a call that the test chooses: the same each time."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

# Windows has no SIGKILL: there os.kill ends a process at once, whichever signal it is given.
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
Function = tuple[Any, str]  # an owner and the name of its attribute


class Killed(BaseException):
    """Stands for SIGKILL in the process of the tests: no handler of Loupe may see it and tidy up."""


@contextmanager
def killed_in_step(number: int) -> Iterator[None]:
    """Context in which a training is killed as it begins its step of that number, from 1; it must get so far."""
    from loupe.training.train_step import TrainStep

    calls, step = count(1), TrainStep.step

    def killed(*given: Any, **named: Any) -> Any:
        if next(calls) == number:
            raise Killed
        return step(*given, **named)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(TrainStep, "step", killed)
        yield


def start(code: str, *arguments: object, beside: Path = Path(__file__)) -> subprocess.Popen[str]:
    """A Python process that runs the code, which may import this module and those in the folder of `beside`."""
    folders = [str(Path(__file__).parent), str(beside.parent), os.environ.get("PYTHONPATH")]
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, folders))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def was_killed(child: subprocess.Popen[str]) -> bool:
    """Wait for a child, and tell whether its end was the kill."""
    child.communicate(timeout=120)
    return child.returncode in (-KILL, KILL)


def kill_at_call(functions: Sequence[Function], number: int) -> None:
    """In a child: the process is killed as one of these functions is called, at that call, counted from 1 over all."""
    calls = count(1)

    def killing(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if next(calls) == number:
                os.kill(os.getpid(), KILL)
                threading.Event().wait()  # of several threads, the others may take the signal a little later
            return original(*given, **named)

        return call

    for owner, name in functions:
        setattr(owner, name, killing(getattr(owner, name)))


def hold_at_first_call(owner: Any, name: str) -> None:
    """In a child: the first call of a function prints `held` and goes on when the parent has written a line."""
    original, gate, held = getattr(owner, name), threading.Lock(), []

    def call(*given: Any, **named: Any) -> Any:
        with gate:
            if not held:
                held.append(True)
                print("held", flush=True)
                sys.stdin.readline()
        return original(*given, **named)

    setattr(owner, name, call)
