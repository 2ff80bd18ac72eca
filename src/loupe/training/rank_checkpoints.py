"""Checkpoints of a run over several ranks: rank 0 writes and reads them, and sends what it reads to the others."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from loupe.ranks import Ranks, lost_ranks
from loupe.training.checkpoint import Checkpoints, Snapshot, Tensors


@dataclass(frozen=True)
class RankCheckpoints:
    """Checkpoints of one run, the same on all ranks; they need no disk that the ranks share."""

    checkpoints: Checkpoints
    ranks: Ranks

    @property
    def last(self) -> Path:
        return self.checkpoints.last

    def save_last(self, snapshot: Callable[[], Snapshot]) -> None:
        """Save a snapshot, which rank 0 alone takes, as `Checkpoints.save_last`."""
        if self.ranks.is_main:
            self.checkpoints.save_last(snapshot())

    def save_best(self, epoch: int, weights: Tensors) -> None:
        """Save the weights of the best epoch so far, as `Checkpoints.save_best`."""
        if self.ranks.is_main:
            self.checkpoints.save_best(epoch, weights)

    def forget_bests_after(self, epoch: int) -> None:
        """Remove best weights of epochs that a resumed run has not reached yet."""
        if self.ranks.is_main:
            self.checkpoints.forget_bests_after(epoch)

    def load_last(self) -> Snapshot | None:
        """Newest undamaged checkpoint; None if none was saved.

        Raises:
            RunStateError: all checkpoints are damaged.
            LostRankError: another rank has ended.
        """
        return self._sent(self.checkpoints.load_last)

    def load_best(self, epoch: int) -> Tensors:
        """Weights of the best epoch.

        Raises:
            RunStateError: they are damaged.
            LostRankError: another rank has ended.
        """
        snapshot = self._sent(lambda: Snapshot({"weights": self.checkpoints.load_best(epoch)}))
        assert snapshot
        return snapshot.tensors["weights"]

    def _sent(self, load: Callable[[], Snapshot | None]) -> Snapshot | None:
        """Snapshot that rank 0 loads, on every rank: its values and shapes first, then its tensors one by one."""
        if self.ranks.alone:
            return load()
        held: list[Snapshot] = []

        def outline() -> tuple[dict[str, dict[str, tuple[torch.Size, torch.dtype]]], dict[str, object]] | None:
            snapshot = load()
            if snapshot is None:
                return None
            held.append(snapshot)
            groups = snapshot.tensors.items()
            shapes = {group: {name: (t.shape, t.dtype) for name, t in tensors.items()} for group, tensors in groups}
            return shapes, dict(snapshot.values)

        outlined = self.ranks.from_main(outline)
        if outlined is None:
            return None
        shapes, values = outlined
        if not held:
            empty = {
                group: {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in tensors.items()}
                for group, tensors in shapes.items()
            }
            held.append(Snapshot(empty, values))
        for group, tensors in shapes.items():
            for name in tensors:
                _broadcast(held[0].tensors[group][name])
        return held[0]


def _broadcast(tensor: Tensor) -> None:
    """Set a tensor on every rank to that of rank 0."""
    import torch.distributed as dist

    with lost_ranks():
        dist.broadcast(tensor, 0)
