"""Setup of a training from a resolved recipe and loaded images: network, loader, measured statistics and precision."""

from dataclasses import dataclass

import numpy as np
import torch

from loupe.config.network import is_random, without_weights
from loupe.config.recipe import Recipe
from loupe.config.resolved import ResolvedRecipe
from loupe.data.pixels.batches import BatchLoader
from loupe.data.pixels.prepare import Images, keep_pixels, pixel_statistics
from loupe.data.splits.split import Split
from loupe.devices import Compute, threads_reason
from loupe.log import logger
from loupe.models.build import build
from loupe.models.classifier import Classifier
from loupe.models.engine import Engines, engine_name
from loupe.models.whitening import whiten
from loupe.ranks import current
from loupe.runs import teacher
from loupe.runs.order import epoch_order, shuffle_window, warn_of_skewed_windows
from loupe.training.precision import resolve, resolve_frozen
from loupe.training.train_step import Teaching


@dataclass(frozen=True)
class TrainingSetup:
    """Input of a training.

    Attributes:
        recipe: recipe with the statistics of the training pixels and the precisions.
        model: network on its device, with the weights at the start of the first stage.
        loader: loader of all images.
        class_weights_K: weights of the classes in the loss; None for equal weights.
        compute: device and precision of the training.
        frozen_compute: device and precision of the frozen blocks.
        choices: precision, engine of frozen blocks, and threads, each with the reason for it.
        log_prior_K: logit adjustment of each class; None for none.
        teaching: probabilities of the recipe's teacher for the training images; None without one.
    """

    recipe: ResolvedRecipe
    images: Images
    split: Split
    model: Classifier
    loader: BatchLoader
    class_weights_K: torch.Tensor | None
    compute: Compute
    frozen_compute: Compute
    engines: Engines
    choices: dict[str, str]
    log_prior_K: torch.Tensor | None = None
    teaching: Teaching | None = None


def set_up(
    recipe: ResolvedRecipe, images: Images, split: Split, device: torch.device, *, pretrained: bool = True
) -> TrainingSetup:
    """Measure what the recipe leaves open (pixel statistics, precision) and build the network.

    Of several ranks, rank 0 measures, and all build the same network.

    Args:
        pretrained: load pretrained weights, and compute those of a whitening layer; False if a checkpoint has them.

    Raises:
        ConfigError: the images do not suit the network, or its pretrained weights are unavailable.
        LoupeError: the recipe's teacher cannot be used.
    """
    joined = current()
    if recipe.input.wants_statistics:
        by_channel = recipe.input.normalise == "channels"
        recipe = recipe.normalised(
            *joined.from_main(lambda: pixel_statistics(images.store, split.train, by_channel=by_channel))
        )
    recipe = recipe.shuffled_in(shuffle_window(images, len(split.train)))
    order = epoch_order(images.table, recipe.shuffle_window)  # its errors come before the run has a directory
    warn_of_skewed_windows(order, images.table, split.train, recipe.seed)
    images = keep_pixels(images, split.val)  # which are read after each epoch
    network = recipe.model if pretrained else without_weights(recipe.model)
    model = build(network, recipe.preprocessing, images.table.classes, recipe.seed).to(device)
    if pretrained and is_random(recipe.model):
        whiten(model, images.store, split.train)
    loader = BatchLoader(images.store, images.table.labels, device)
    class_weights_K, engines, stage = class_weights(recipe, images, split, device), Engines(), recipe.stages[-1]
    precision, reason = joined.from_main(
        lambda: resolve(
            recipe.precision,
            model,
            network=recipe.model.name,
            stage=stage,
            loader=loader,
            train_N=split.train,
            class_weights_K=class_weights_K,
        )
    )
    if recipe.precision == "auto":
        logger.info(reason)
    choices = {"precision": reason, "threads": threads_reason()}
    frozen_precision = precision
    if any(model.blocks_before(stage.part) for stage in recipe.stages):
        frozen_precision, reason = joined.from_main(
            lambda: resolve_frozen(
                recipe.frozen_precision,
                asked=recipe.precision,
                run=precision,
                model=model,
                loader=loader,
                rows_N=split.train,
                engines=engines,
            )
        )
        if reason:
            logger.info(reason)
        engine = engine_name(Compute(device, frozen_precision))
        choices["frozen_precision"] = reason or f"precision {frozen_precision}, as asked for or as the run's"
        choices["engine"] = f"{engine}, the fastest that is installed"
    return TrainingSetup(
        recipe=recipe.computed_in(precision, frozen_precision),
        images=images,
        split=split,
        model=model,
        loader=loader,
        class_weights_K=class_weights_K,
        compute=Compute(device, precision),
        frozen_compute=Compute(device, frozen_precision),
        engines=engines,
        choices=choices,
        log_prior_K=log_prior(recipe, images, split, device),
        teaching=teacher.teaching(recipe, images, split, device),
    )


def less_memory(recipe: Recipe) -> str:
    """Advice for a training that needs too much memory, without a full stop."""
    sizes = [stage.batch_size for stage in recipe.stages if not stage.is_solved]
    less = f"--batch-size {max(sizes) // 2}" if sizes and max(sizes) > 1 else "a smaller input.size_px"
    return f"Train again with {less}, or with another --device"


def log_prior(recipe: Recipe, images: Images, split: Split, device: torch.device) -> torch.Tensor | None:
    """Logarithm of the share of each class in the training images, times the recipe's `logit_adjustment`.

    A class without training images has that of a class with one.
    """
    if not recipe.logit_adjustment:
        return None
    counts_K = np.bincount(images.table.labels[split.train], minlength=len(images.table.classes))
    log_K = recipe.logit_adjustment * np.log(np.maximum(counts_K, 1) / counts_K.sum())
    return torch.tensor(log_K, dtype=torch.float32, device=device)


def class_weights(recipe: Recipe, images: Images, split: Split, device: torch.device) -> torch.Tensor | None:
    """For `balanced`, N / (K · N_k) over the K classes of the training images, so that each has equal total weight."""
    if recipe.class_weights == "none":
        return None
    counts_K = np.bincount(images.table.labels[split.train], minlength=len(images.table.classes))
    weights_K = np.where(counts_K > 0, counts_K.sum() / ((counts_K > 0).sum() * np.maximum(counts_K, 1)), 0.0)
    return torch.tensor(weights_K, dtype=torch.float32, device=device)
