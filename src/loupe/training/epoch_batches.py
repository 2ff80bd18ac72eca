"""Batches of one epoch, each with the images that its own are mixed with, and this rank's share of both."""

import itertools
from collections.abc import Iterator

import numpy as np

from loupe.augment.pipeline import Augmenter
from loupe.augment.shard_order import EpochOrder
from loupe.data.pixels.batches import Batch, BatchLoader
from loupe.data.pixels.read_ahead import cut
from loupe.training.activation_loader import ActivationLoader
from loupe.training.train_step import TrainStep


def epoch_batches(
    train_step: TrainStep,
    loader: BatchLoader | ActivationLoader,
    order: EpochOrder,
    train_N: np.ndarray,
    *,
    epoch: int,
    first: int,
) -> Iterator[tuple[Batch, Batch | None, int]]:
    """Batches from number `first` on: the share of this rank, its mixing partners, and the images of the whole batch.

    Args:
        train_N: rows to train on.
        epoch: number of the epoch over all stages, from 0.
    """
    stage, augmenter, share = train_step.stage, train_step.augmenter, train_step.share
    windows = order.windows(augmenter.seed, epoch, train_N)
    order_N = np.concatenate(windows)
    images_S = [len(index_B) for index_B in cut(order_N, stage.batch_size)][first:]
    batches = loader.at(epoch).batches(order_N, stage.batch_size, first=first, share=share)
    partners: Iterator[Batch | None] = itertools.repeat(None)
    if stage.augment.mixes:
        assert isinstance(augmenter, Augmenter), "images are mixed as images"
        drawn_from = [train_N] if len(windows) == 1 else map(np.sort, windows)  # partners lie in the same shards
        drawn = map(augmenter.partners, windows, itertools.repeat(epoch), drawn_from)
        partner_N = np.concatenate([*drawn])
        partners = loader.batches(partner_N, stage.batch_size, first=first, share=share)
    return zip(batches, partners, images_S, strict=False)
