"""Passes of a network over several ranks: each computes its share of every batch, and all have the same gradients.

The gradients are averaged by PyTorch's DistributedDataParallel, while the backward pass still runs. Batches, augmented
images, mixing partners and random masks are those of one process. Batch normalisation has statistics of the whole
batch where the stage says so; else of the share, and its running statistics are then those of rank 0.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from loupe.config.recipe import Stage
from loupe.devices import Compute
from loupe.models.classifier import Classifier
from loupe.models.shares import Share
from loupe.ranks import Ranks, lost_ranks

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

BROKEN = ("gloo", "nccl", "connection closed", "connection reset")  # words of errors of an exchange


class RankNetwork:
    """Network whose passes are shared out over ranks.

    Attributes:
        model: the network; all ranks get the weights of rank 0.
        has_statistics: True if a layer of batch normalisation trains by the statistics of a batch.
    """

    def __init__(self, model: Classifier, stage: Stage, compute: Compute, ranks: Ranks, first: int) -> None:
        """Send the weights and buffers of rank 0 to all ranks.

        Args:
            first: block that receives the inputs.

        Raises:
            LostRankError: another rank has ended.
        """
        self.model = model
        self.first = first
        self.has_statistics = _has_statistics(model)
        self._sync = stage.batch_norm_sync
        self._compute = compute
        self._ranks = ranks
        self._is_laid_out = False
        with exchanging():
            self._group = _own_group() if self.has_statistics and self._sync is not False else None
            self._parallel = _parallel(model)

    def share(self, index_B: np.ndarray) -> np.ndarray:
        """Rows of a batch that this rank computes: all of them, on every rank, if there are too few to share."""
        share_B: np.ndarray = self._ranks.share(index_B) if self.is_shared(len(index_B)) else index_B
        return share_B

    def is_shared(self, images: int) -> bool:
        """True for a batch of at least one image for each rank; two where a share has statistics of its own."""
        return images // self._ranks.count >= (2 if self.has_statistics and self._sync is False else 1)

    def is_synchronised(self, images: int) -> bool:
        """True for a shared batch whose normalisation is over all of its images."""
        sync = self._sync if isinstance(self._sync, bool) else images // self._ranks.count < self._sync
        return self.has_statistics and sync

    def forward(self, x_BCHW: Tensor, images: int, seed: int) -> Tensor:
        """Logits [B, K] of this rank's share of a batch of that many images.

        Args:
            seed: seed of the random numbers of this step.

        Raises:
            ConfigError: a layer draws random numbers that cannot be those of the whole batch.
            LostRankError: another rank has ended.
        """
        if not self._is_laid_out:
            self._lay_out(x_BCHW, images)
        torch.manual_seed(seed)
        return self._share(x_BCHW, images)

    def _lay_out(self, x_BCHW: Tensor, images: int) -> None:
        """Take passes without effect, after which the reductions of gradients have their final layout.

        DistributedDataParallel finds the unused weights in the first pass and the order of the gradients in the second,
        and sums over ranks in that order from the third on. Without this, a resumed training would have other last bits
        than one that was not interrupted.
        """
        kept = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        for _ in range(2):
            self.backward(self._share(x_BCHW, images).float().sum())
            self.model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
        self._is_laid_out = True

    def _share(self, x_BCHW: Tensor, images: int) -> Tensor:
        """Logits of the share, with the random numbers and the batch normalisation of the whole batch."""
        with self._compute.autocast(), exchanging():
            if not self.is_shared(images):
                return self._logits(x_BCHW)
            gather = self._gather if self.is_synchronised(images) else None
            with Share(self._ranks.rank, self._ranks.count, images, gather):
                return self._logits(x_BCHW)

    def _logits(self, x_BCHW: Tensor) -> Tensor:
        logits_BK: Tensor = self._parallel(x_BCHW, self.first)
        return logits_BK

    def loss(self, losses_B: Tensor, images: int) -> Tensor:
        """Loss of this rank, so that the mean over the ranks is the mean over the images of the whole batch."""
        if not self.is_shared(images):
            return losses_B.mean()
        return losses_B.sum() * (self._ranks.count / images)

    def backward(self, loss: Tensor) -> None:
        """Set the gradients of all trainable weights to their means over the ranks.

        Raises:
            LostRankError: another rank has ended.
        """
        with exchanging():
            loss.backward()  # type: ignore[no-untyped-call]

    def counts(self, images: int) -> bool:
        """True if the images that this rank computes count in the sums over the ranks."""
        return self._ranks.is_main or self.is_shared(images)

    def settle(self, networks: list[Classifier]) -> None:
        """Set the running statistics of networks to those of rank 0.

        Raises:
            LostRankError: another rank has ended.
        """
        if not self.has_statistics or self._sync is True:
            return
        import torch.distributed as dist

        with lost_ranks():
            for buffer in [buffer for network in networks for buffer in network.buffers()]:
                dist.broadcast(buffer, 0)

    def _gather(self, tensor: Tensor) -> list[Tensor]:
        """Tensors of all ranks, in their order; within a pass, apart from the reductions of gradients."""
        import torch.distributed as dist

        parts = [torch.empty_like(tensor) for _ in range(self._ranks.count)]
        with lost_ranks():
            dist.all_gather(parts, tensor.contiguous(), group=self._group)
        return parts


@contextmanager
def exchanging() -> Iterator[None]:
    """Turn errors of an exchange within a computation into LostRankError, and no others."""
    try:
        yield
    except RuntimeError as error:
        if not any(word in str(error).lower() for word in BROKEN):
            raise
        with lost_ranks():
            raise


def _has_statistics(model: Classifier) -> bool:
    """True if a layer of batch normalisation trains by the statistics of a batch."""
    trained = [*model.trunk[model.frozen :]] if model.batch_statistics else []
    return any(isinstance(layer, _BatchNorm) for part in (*trained, model.head) for layer in part.modules())


def _own_group() -> "ProcessGroup":
    """Group of all ranks for the exchanges of batch normalisation, which the backward pass mixes with reductions."""
    import torch.distributed as dist

    group = dist.new_group()
    assert isinstance(group, dist.ProcessGroup), "this process is one of them"
    return group


def _parallel(model: Classifier) -> nn.parallel.DistributedDataParallel:
    """Network that averages its gradients over the ranks; weights without a gradient are found in the first pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch 2.14 has another name for broadcast_buffers
        return nn.parallel.DistributedDataParallel(
            model, broadcast_buffers=False, gradient_as_bucket_view=True, static_graph=True
        )
