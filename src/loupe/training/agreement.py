"""Agreement of all ranks about the sums of an epoch and about a request to stop, in one small exchange."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from loupe.devices import StopSignal
from loupe.ranks import Ranks, lost_ranks


@dataclass
class Agreement:
    """Agreement between ranks on the way; one process alone asks its own signal.

    A request to stop that any rank has received is known to all of them from the next exchange on, so that all stop at
    the same step. The exchange is between processors, whatever device computes: no GPU waits for it.
    """

    ranks: Ranks
    stop: StopSignal
    _stopping: bool = field(default=False, init=False)

    @property
    def is_stopping(self) -> bool:
        """True if the work is to stop, on all ranks alike."""
        return self.stop.received if self.ranks.alone else self._stopping

    def totals(self, sums: Sequence[float]) -> list[float]:
        """Sums over all ranks, in their order, so that they are the same bits on every rank.

        Raises:
            LostRankError: another rank has ended.
        """
        if self.ranks.alone:
            return list(sums)
        import torch
        import torch.distributed as dist

        own = torch.tensor([*sums, self.stop.number if self.stop.received else 0], dtype=torch.float64)
        parts = [torch.empty_like(own) for _ in range(self.ranks.count)]
        with lost_ranks():
            dist.all_gather(parts, own)
        *found, numbers = torch.stack(parts).T
        if number := int(numbers.max()):
            self._stopping, self.stop.number = True, number
        return [float(total) for total in torch.stack(found).sum(dim=1)] if found else []

    def ask(self) -> bool:
        """True if any rank has been asked to stop; all ranks have to call this.

        Raises:
            LostRankError: another rank has ended.
        """
        self.totals([])
        return self.is_stopping
