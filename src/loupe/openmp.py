"""OpenMP's threads: their waiting, set before PyTorch loads the library unless the user has set it, and cores for them.

By default libgomp's threads spin for milliseconds while they wait for one that has no core: beside other work most of
the processor time is spent on it. Fewer turns cost a few per cent on an idle machine (results/busy.md).
"""

import os
import sys
from typing import Literal

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")  # of libgomp, and of Intel's library
TURNS = "1000"  # of a waiting loop, before a thread sleeps; libgomp takes 300,000

SetBy = Literal["Loupe", "the user", "nobody"]


def cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: within the limits of a container or a scheduler
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def set_waiting() -> None:
    """Let threads that wait sleep soon, in this process and its children, unless the user has said how they wait.

    libgomp reads its environment when it is loaded: where PyTorch was imported before, nothing changes.
    """
    if sys.platform.startswith("linux") and "torch" not in sys.modules and set_by() == "nobody":
        os.environ["GOMP_SPINCOUNT"] = TURNS


def set_by() -> SetBy:
    """Origin of the waiting policy; a parent process that is Loupe counts as Loupe."""
    found = waiting()
    if not found:
        return "nobody"
    return "Loupe" if found == {"GOMP_SPINCOUNT": TURNS} else "the user"


def waiting() -> dict[str, str]:
    """Variables in force that say how threads wait."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}
