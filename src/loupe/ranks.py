"""Ranks: the processes of one command, as torchrun and `--processes` start them, and the values that they exchange.

Every rank runs the same command on the same images. Rank 0 writes files and talks to the user; what takes long is
shared out. Where a command runs in one process, there is one rank and nothing is exchanged.
"""

import itertools
import math
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from loupe.errors import ConfigError, LoupeError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")

WAIT = timedelta(days=1)  # for a rank that computes alone; one that has ended closes its connection at once
SLICE_BYTES = 32 * 2**20  # of rows, sent at a time
SENT = (LoupeError, OSError, ArithmeticError)  # errors that reach every rank; any other one ends its own, and so all
JOIN = timedelta(minutes=10)  # from the first rank that has started to the last
PLACE = ("MASTER_ADDR", "MASTER_PORT")

# Names a file in which rank 0 tells `--processes`, which outlives every rank, the command that resumes the run.
LAUNCHER = "LOUPE_LAUNCHER"


class LostRankError(LoupeError):
    """End of another rank, so that this one cannot go on."""


class RanksDifferError(LoupeError):
    """Value that should be the same on every rank, and is not."""

    everywhere = True


@dataclass(frozen=True)
class Ranks:
    """This process among those of the command.

    Attributes:
        rank: number of this process, from 0.
        count: number of processes.
        local_rank, local_count: the same among the processes of this machine.
        group: process group of PyTorch that these ranks are; None for that of all processes.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1
    group: Any = field(default=None, compare=False)

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
            dist.all_gather_object(values, value, self.group)
        return values

    def from_main(self, compute: Callable[[], T]) -> T:
        """Result of a function that rank 0 alone calls; an error of `SENT` is raised on every rank.

        While it runs, rank 0 is alone (`current`), so that nothing in it waits for the others.

        Raises:
            LostRankError: another rank has ended.
        """
        if self.alone:
            return compute()
        import torch.distributed as dist

        sent: list[Any] = [None]
        if self.is_main:
            try:
                with _apart():
                    sent = [("value", compute())]
            except SENT as error:
                sent = [("error", _picklable(error))]
        with lost_ranks():
            dist.broadcast_object_list(sent, group=self.group, group_src=0)
        kind, value = sent[0]
        if kind == "error":
            raise _of_all(value)
        result: T = value
        return result

    def together(self, compute: Callable[[], T]) -> T:
        """Result of a function on this rank, once every rank has its own.

        An error of `SENT` on one rank is raised on every rank; of several, that of the lowest rank.

        Raises:
            LostRankError: another rank has ended.
        """
        if self.alone:
            return compute()
        results, failed = list[T](), None
        try:
            results.append(compute())
        except SENT as error:
            failed = _picklable(error)
        if self.any(failed is not None):
            raise _of_all(next(error for error in self.gather(failed) if error is not None))
        return results[0]

    def same(self, value: T, name: str) -> T:
        """The value, which every rank has to have.

        Args:
            name: noun for the value, in the plural.

        Raises:
            RanksDifferError: the ranks have different values.
            LostRankError: another rank has ended.
        """
        values = self.gather(value)
        if any(given != values[0] for given in values):
            raise RanksDifferError(
                f"the processes of this command have different {name}. Give each machine the same images, files and "
                "versions, then start again."
            )
        return value

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
            dist.all_reduce(highest, dist.ReduceOp.MAX, self.group)
        return bool(highest)

    def wait(self) -> None:
        """Wait until every rank has come here."""
        self.gather(None)


_current = _machine = Ranks()
_joined = Ranks()  # as `_current`, also where this process is alone for a while
_store: "Store | None" = None  # of all blocks that are joined in this process: its port is bound once
_blocks = itertools.count()


def current() -> Ranks:
    """Ranks that this process has joined; one rank where it has joined none."""
    return _current


def on_machine() -> Ranks:
    """Ranks of this machine, numbered from 0: those that share its files and its memory."""
    return _machine


def is_main() -> bool:
    """True on the rank that writes files and talks to the user, and where there is one process."""
    return _joined.is_main


def processes() -> int:
    """Number of processes of this command."""
    return _joined.count


def options() -> list[str]:
    """Options of the command line for as many processes as this command has, where all are on this machine."""
    on_one_machine = _joined.local_count == _joined.count
    return ["--processes", str(_joined.count)] if on_one_machine and not _joined.alone else []


def in_environment(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Ranks that torchrun and `--processes` name in the environment; one rank without them.

    Raises:
        ConfigError: the variables contradict each other.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return Ranks()
    try:
        rank, size, local_rank, local_size = (int(environment.get(name, "")) for name in names)
        if not (0 <= rank < size and 0 <= local_rank < local_size <= size):
            raise ValueError
        if size > 1 and not (environment.get("MASTER_ADDR") and 0 < int(environment.get("MASTER_PORT", "")) < 2**16):
            raise ValueError
    except ValueError:
        given = ", ".join(f"{name}={environment.get(name)!r}" for name in (*names, *PLACE))
        raise ConfigError(
            f"{given}: not a process among others. Start with torchrun or --processes, which set these, or unset them."
        ) from None
    return Ranks(rank, size, local_rank, local_size)


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the ranks of the environment while the block runs; within another `joined`, these are the same.

    Where the user's own program has set up torch.distributed, its processes are the ranks.

    Raises:
        ConfigError: the environment contradicts itself, or its port cannot be used.
        LostRankError: the others cannot be reached.
    """
    global _current, _joined, _machine
    ranks = in_environment()
    if ranks.alone or not _joined.alone:
        yield _current
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore

    if not dist.is_available():
        raise ConfigError(f"{ranks.count} processes: this PyTorch has no torch.distributed. Give --processes 1.")
    own = not dist.is_initialized()
    if torch.cuda.is_available():
        torch.cuda.set_device(ranks.local_rank % torch.cuda.device_count())
    if own:
        block = PrefixStore(f"block {next(_blocks)}", _meet(ranks))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with lost_ranks():
            dist.init_process_group(backend, store=block, rank=ranks.rank, world_size=ranks.count, timeout=WAIT)
    try:
        _current = _joined = ranks
        _machine = _of_machine(ranks)
        yield ranks
    finally:
        _current = _joined = _machine = Ranks()
        if own:
            dist.destroy_process_group()


def _meet(ranks: Ranks) -> "Store":
    """The store of all ranks, once each has come."""
    global _store
    if _store is not None:
        return _store
    place = ":".join(os.environ[name] for name in PLACE)
    try:
        met = _meeting(ranks)
    except (RuntimeError, ValueError) as error:
        reason = _in_short(error)
        if ranks.is_main:
            raise ConfigError(
                f"the processes cannot meet at {place} ({reason}). Give torchrun another port: --master-port."
            ) from None
        raise LostRankError(f"the first process cannot be reached at {place} ({reason}).") from None
    try:
        met.set(f"came {ranks.rank}", "")
        met.wait([f"came {rank}" for rank in range(ranks.count)], JOIN)
    except RuntimeError as error:
        raise LostRankError(
            f"not all of {ranks.count} processes have come to {place} within {JOIN.seconds // 60} min "
            f"({_in_short(error)})."
        ) from None
    _store = met
    return met


def _meeting(ranks: Ranks) -> "Store":
    """Store at which the ranks meet: a file in the folder of `--processes`, else the port that torchrun names.

    The store of a port listens on every interface of the machine and asks nobody who they are.
    """
    from torch.distributed.rendezvous import rendezvous

    place = "env://"
    if LAUNCHER in os.environ:
        file = Path(os.environ[LAUNCHER]).with_name("store")
        place = f"{file.as_uri()}?rank={ranks.rank}&world_size={ranks.count}"
    met: Store
    met, _, _ = next(rendezvous(place, timeout=JOIN))
    return met


def store() -> "Store | None":
    """Texts that ranks leave for each other, also after the exchange has ended; None until all have joined."""
    return _store


def tell_launcher(resume: str) -> None:
    """Tell `--processes` the command that resumes the run, for when a rank is killed."""
    if (file := os.environ.get(LAUNCHER)) and in_environment().is_main:
        with suppress(OSError):
            Path(file).write_text(resume, encoding="utf-8")


def _of_machine(ranks: Ranks) -> Ranks:
    """Ranks of this machine. Those of a machine have numbers that follow each other, as torchrun gives them.

    Raises:
        ConfigError: they have not.
    """
    import torch.distributed as dist

    places = ranks.gather((ranks.rank - ranks.local_rank, ranks.local_rank, ranks.local_count))
    counts = {first: count for first, _, count in places}
    if places != [(first, rank, count) for first, count in sorted(counts.items()) for rank in range(count)]:
        raise ConfigError(
            "LOCAL_RANK and LOCAL_WORLD_SIZE: the processes of a machine do not have RANKs that follow each other. "
            "Number them as torchrun does: first those of one machine, then those of the next."
        )
    own = replace(ranks, rank=ranks.local_rank, count=ranks.local_count)
    if len(counts) == 1:
        return own
    for first, count in sorted(counts.items()):  # every process takes part in making each group
        group = dist.new_group(list(range(first, first + count)), timeout=WAIT, backend="gloo")
        if first == ranks.rank - ranks.local_rank:
            own = replace(own, group=group)
    return own


@contextmanager
def _apart() -> Iterator[None]:
    """Let this process be alone while the block runs."""
    global _current, _machine
    before, _current, _machine = (_current, _machine), Ranks(), Ranks()
    try:
        yield
    finally:
        _current, _machine = before


@contextmanager
def lost_ranks() -> Iterator[None]:
    """Turn errors of the exchange in the block into LostRankError: it fails only where another rank has ended."""
    try:
        yield
    except RuntimeError as error:  # as DistBackendError and DistStoreError are
        raise LostRankError(
            f"another process of this command has ended ({_in_short(error)}). Its own message says why; where it has "
            "none, it was killed, for example for lack of memory."
        ) from error


def sum_over(ranks: Ranks, tensor: "torch.Tensor") -> "torch.Tensor":
    """Sum of a tensor over all ranks, in place.

    Raises:
        LostRankError: another rank has ended.
    """
    if not ranks.alone:
        import torch.distributed as dist

        with lost_ranks():
            dist.all_reduce(tensor, group=ranks.group)
    return tensor


def merge_rows(
    ranks: Ranks, mine_MK: "np.ndarray", place_RM: Sequence["np.ndarray"], *, everywhere: bool
) -> "np.ndarray":
    """Rows of an array of which each rank has some, in order, on every rank or on rank 0 alone.

    They are sent as they are in memory, a slice of `SLICE_BYTES` at a time.

    Args:
        mine_MK: rows of this rank.
        place_RM: places of the rows of each rank among all N rows.
        everywhere: put them together on every rank.

    Returns:
        [N, K]; [0, K] on ranks where they are not put together.

    Raises:
        LostRankError: another rank has ended.
    """
    import numpy as np

    kept = everywhere or ranks.is_main
    merged = np.empty((sum(map(len, place_RM)) if kept else 0, *mine_MK.shape[1:]), mine_MK.dtype)
    if ranks.alone:
        merged[place_RM[0]] = mine_MK
        return merged
    step = max(1, SLICE_BYTES // max(1, mine_MK.itemsize * math.prod(mine_MK.shape[1:])))
    for rank, place_M in enumerate(place_RM):
        for start in range(0, len(place_M), step):
            place_S = place_M[start : start + step]
            if rank == ranks.rank:
                sent = np.ascontiguousarray(mine_MK[start : start + step])
            else:
                sent = np.empty((len(place_S) if kept else 0, *mine_MK.shape[1:]), mine_MK.dtype)
            _send(ranks, sent, rank, everywhere=everywhere)
            if kept:
                merged[place_S] = sent
    return merged


def _send(ranks: Ranks, rows: "np.ndarray", source: int, *, everywhere: bool) -> None:
    """Send rows in place from one rank to every rank, or to rank 0."""
    import torch
    import torch.distributed as dist

    with lost_ranks():
        if everywhere:
            dist.broadcast(torch.from_numpy(rows), group=ranks.group, group_src=source)
        elif source == ranks.rank != 0:
            dist.send(torch.from_numpy(rows), group=ranks.group, group_dst=0)
        elif ranks.is_main and source:
            dist.recv(torch.from_numpy(rows), group=ranks.group, group_src=source)


def in_order(shares: Sequence[Sequence[T]]) -> list[T]:
    """Entries of a sequence from the shares of all ranks (`Ranks.share`), in its order."""
    merged: list[Any] = [None] * sum(map(len, shares))
    for rank, share in enumerate(shares):
        merged[rank :: len(shares)] = share
    return merged


def _in_short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _of_all(error: Exception) -> Exception:
    """The error, marked as one that every rank raises."""
    if isinstance(error, LoupeError):
        error.everywhere = True
    return error


def _picklable(error: Exception) -> Exception:
    """The error, or where it cannot be sent, one with the same text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return LoupeError(str(error))
    return error
