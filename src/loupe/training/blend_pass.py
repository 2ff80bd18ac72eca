"""Frozen features of a blend: those of each member, cached under the key that the member has alone, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from loupe.augment.pipeline import Augmenter
from loupe.config.network import BlendSpec, Network
from loupe.models.blend import Member
from loupe.models.classifier import Classifier
from loupe.models.engine import digest_of
from loupe.training.activation_loader import ActivationLoader
from loupe.training.frozen import PASS_BATCH, FrozenPass, trunk_key


def member_keys(network: Network) -> tuple[str, ...]:
    """`trunk_key` of each member of a blend of features; empty for all other networks."""
    if isinstance(network, BlendSpec) and network.combine == "features":
        return tuple(trunk_key(member.network) for member in network.members)
    return ()


@dataclass(frozen=True)
class BlendPass:
    """Passes of images through the frozen trunks of the members of a blend, whose pooled features are held in memory.

    Attributes:
        model: the blend.
        members: its members, each with its pass.
    """

    model: Classifier
    members: tuple[tuple[Member, FrozenPass], ...]

    @cached_property
    def digest(self) -> str:
        """Hash of the frozen block: layers, weights, statistics."""
        return digest_of(self.model.trunk[: self.model.frozen])

    @property
    def computed_seconds(self) -> float | None:
        """Time that the features of all members took, now or in the runs that cached them; None if unknown."""
        seconds = [one.computed_seconds for _, one in self.members]
        known = [second for second in seconds if second is not None]
        return sum(known) if len(known) == len(seconds) else None

    def evaluation(self, rows_N: np.ndarray) -> ActivationLoader | None:
        """Loader of the features of these rows in the evaluation view; None if they do not fit on the disk."""
        return self._side_by_side([one.evaluation(rows_N) for _, one in self.members], rows_N, [0])

    def augmented(self, augmenter: Augmenter, epochs: Sequence[int], rows_N: np.ndarray) -> ActivationLoader | None:
        """Loader of the features of augmented views of these rows in `epochs`; None if they do not fit on the disk."""
        loaders = [
            one.augmented(Augmenter(augmenter.spec, member.classifier.preprocessing, augmenter.seed), epochs, rows_N)
            for member, one in self.members
        ]
        return self._side_by_side(loaders, rows_N, epochs)

    def _side_by_side(
        self, loaders: Sequence[ActivationLoader | None], rows_N: np.ndarray, epochs: Sequence[int]
    ) -> ActivationLoader | None:
        known = [loader for loader in loaders if loader is not None]
        if len(known) < len(loaders):
            return None
        pairs = list(zip(self.members, known, strict=True))
        views = tuple(
            torch.cat([_pooled(member, loader.at(epoch), rows_N) for (member, _), loader in pairs], dim=1)
            for epoch in epochs
        )
        view_row_N = np.full(len(known[0].labels_N), -1, np.int64)
        view_row_N[rows_N] = np.arange(len(rows_N))
        return ActivationLoader(views, view_row_N, known[0].labels_N, known[0].device, epochs[0])


@torch.no_grad()
def _pooled(member: Member, loader: ActivationLoader, rows_N: np.ndarray) -> torch.Tensor:
    """Pooled features of these rows, float32 [N, C], on the device of the loader."""
    pool = member.classifier.head.eval()
    parts = [pool(batch.x_BCHW).float() for batch in loader.batches(rows_N, 8 * PASS_BATCH)]
    return torch.cat(parts) if parts else torch.empty(0, 0, device=loader.device)
