"""State of a command that its tasks take over in the processes of Ray: folder, words, threads."""

import os
import pickle
import signal
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from loupe.errors import LoupeError, RunStateError


@dataclass(frozen=True)
class CommandPlace:
    """State of the process that the user started.

    Attributes:
        words: the command, which runs record.
        folder: working folder, to which paths of recipes are relative.
        threads: threads of PyTorch; sums are split among them, so another number gives other last bits.
    """

    words: tuple[str, ...]
    folder: str
    threads: int

    @classmethod
    def here(cls, threads: int) -> "CommandPlace":
        """State of this process, for tasks with as many threads."""
        return cls(tuple(sys.argv), str(Path.cwd()), threads)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take over the state while the block runs; the folder only where it exists on this machine.

        Ray cancels a task by Ctrl-C's signal in its process, which must not be ignored there, as a process in the
        background inherits it.
        """
        words, threads = list(sys.argv), torch.get_num_threads()
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        with chdir(self.folder) if os.path.isdir(self.folder) else nullcontext():  # noqa: PTH112
            sys.argv[:] = self.words
            torch.set_num_threads(self.threads)
            try:
                yield
            finally:
                sys.argv[:] = words
                torch.set_num_threads(threads)

    @staticmethod
    def node() -> str:
        """Name of the node on which this task runs."""
        import ray

        from loupe.cluster.nodes import alive

        mine = ray.get_runtime_context().get_node_id()
        return next((node.name for node in alive() if node.id == mine), mine[:6])


def sendable(error: LoupeError) -> LoupeError:
    """The error, or where it cannot be pickled, one with the same text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return LoupeError(str(error))
    return error


def lost_error(what: str, error: Exception, times: int, remedy: str) -> RunStateError:
    """Error of work whose worker was lost too often, or whose Ray has ended.

    Args:
        what: the work.
        error: of Ray.
        times: number of times that it was lost.
        remedy: next step of the user.
    """
    kind = type(error).__name__
    if kind == "LocalRayletDiedError":
        return RunStateError(f"{what}: Ray on this machine has ended, by `ray stop` or for lack of memory. {remedy}")
    return RunStateError(
        f"{what}: its worker was lost {times} times ({kind}). It may need more memory than the nodes have. {remedy}"
    )
