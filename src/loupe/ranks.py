"""Ranks: the processes of one command, as torchrun and `--processes` start them, and the values that they exchange.

Every rank runs the same command on the same images. Rank 0 writes files and talks to the user; what takes long is
shared out. Where a command runs in one process, there is one rank and nothing is exchanged.
"""

import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from loupe.errors import ConfigError, LoupeError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

WAIT = timedelta(days=1)  # for a rank that computes alone; one that has ended closes its connection at once


class LostRankError(LoupeError):
    """End of another rank, so that this one cannot go on."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of the command.

    Attributes:
        rank: number of this process, from 0.
        count: number of processes.
        local_rank, local_count: the same among the processes of this machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def alone(self) -> bool:
        return self.count == 1

    @property
    def is_main(self) -> bool:
        """True for the rank that writes files and talks to the user."""
        return self.rank == 0

    def share(self, items: Any) -> Any:
        """Share of this rank of a sequence or an array: every `count`-th entry, from entry number `rank` on."""
        return items[self.rank :: self.count]

    def gather(self, value: T) -> list[T]:
        """Values of all ranks, in their order, on every rank.

        Raises:
            LostRankError: another rank has ended.
        """
        if self.alone:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.count
        with lost_ranks():
            dist.all_gather_object(values, value)
        return values

    def from_main(self, compute: Callable[[], T]) -> T:
        """Result of a function that rank 0 alone calls; its error is raised on every rank.

        Raises:
            LoupeError: raised by the function; any other of its errors ends rank 0 alone, and with it the others.
            LostRankError: another rank has ended.
        """
        if self.alone:
            return compute()
        import torch.distributed as dist

        sent: list[Any] = [None]
        if self.is_main:
            try:
                sent = [("value", compute())]
            except LoupeError as error:
                sent = [("error", _picklable(error))]
        with lost_ranks():
            dist.broadcast_object_list(sent, src=0)
        kind, value = sent[0]
        if kind == "error":
            raise value
        result: T = value
        return result

    def any(self, flag: bool) -> bool:
        """True on every rank if it is true on one.

        Raises:
            LostRankError: another rank has ended.
        """
        if self.alone:
            return flag
        import torch
        import torch.distributed as dist

        highest = torch.tensor(int(flag))  # a quarter of the time of `gather`
        with lost_ranks():
            dist.all_reduce(highest, dist.ReduceOp.MAX)
        return bool(highest)

    def wait(self) -> None:
        """Wait until every rank has come here."""
        self.gather(None)


_current = Ranks()


def current() -> Ranks:
    """Ranks that this process has joined; one rank where it has joined none."""
    return _current


def in_environment(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Ranks that torchrun and `--processes` name in the environment; one rank without them.

    Raises:
        ConfigError: the variables contradict each other.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return Ranks()
    try:
        rank, count, local_rank, local_count = (int(environment.get(name, "")) for name in names)
        if not (0 <= rank < count and 0 <= local_rank < local_count <= count):
            raise ValueError
    except ValueError:
        given = ", ".join(f"{name}={environment.get(name)!r}" for name in names)
        raise ConfigError(
            f"{given}: not the numbers of a process. Start with torchrun or --processes, which set them, or unset them."
        ) from None
    return Ranks(rank, count, local_rank, local_count)


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the ranks of the environment while the block runs; within another `joined`, these are the same.

    Raises:
        ConfigError: the environment contradicts itself.
        LostRankError: the others cannot be reached.
    """
    global _current
    ranks = in_environment()
    if ranks.alone or not _current.alone:
        yield _current
        return
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        torch.cuda.set_device(ranks.local_rank % torch.cuda.device_count())
    with lost_ranks():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=WAIT)
    _current = ranks
    try:
        yield ranks
    finally:
        _current = Ranks()
        dist.destroy_process_group()


@contextmanager
def lost_ranks() -> Iterator[None]:
    """Turn errors of the exchange in the block into LostRankError: it fails only where another rank has ended."""
    try:
        yield
    except RuntimeError as error:  # as DistBackendError and DistStoreError are
        reason = " ".join(str(error).split())[:200]
        raise LostRankError(
            f"another process of this command has ended ({reason}). Its own message says why; where it has none, it "
            "was killed, for example for lack of memory."
        ) from error


def sum_over(ranks: Ranks, tensor: "torch.Tensor") -> "torch.Tensor":
    """Sum of a tensor over all ranks, in place.

    Raises:
        LostRankError: another rank has ended.
    """
    if not ranks.alone:
        import torch.distributed as dist

        with lost_ranks():
            dist.all_reduce(tensor)
    return tensor


def in_order(shares: Sequence[Sequence[T]]) -> list[T]:
    """Entries of a sequence from the shares of all ranks (`Ranks.share`), in its order."""
    merged: list[Any] = [None] * sum(map(len, shares))
    for rank, share in enumerate(shares):
        merged[rank :: len(shares)] = share
    return merged


def _picklable(error: LoupeError) -> LoupeError:
    """The error, or where it cannot be sent, one with the same text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return LoupeError(str(error))
    return error
