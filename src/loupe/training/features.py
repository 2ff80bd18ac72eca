"""Features of images: outputs of a frozen backbone, which are the inputs of a linear head.

On a CPU they equal those of `loupe train --recipe features` in the same precision, and share its cache.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from loupe.config.network import BackboneSpec
from loupe.config.recipe import Preprocessing
from loupe.data.pixels.batches import BatchLoader
from loupe.data.pixels.prepare import Images
from loupe.devices import Compute, StopSignal
from loupe.errors import DiskError
from loupe.log import logger
from loupe.models.build import build
from loupe.models.engine import Engines
from loupe.training.frozen import PASS_BATCH, FrozenPass, trunk_key
from loupe.training.precision import resolve_frozen


@torch.inference_mode()
def features(
    network: BackboneSpec,
    preprocessing: Preprocessing,
    images: Images,
    *,
    device: torch.device,
    folder: Path,
) -> npt.NDArray[np.float32]:
    """Features of all images of the table in the evaluation view, float32 [N, C].

    Args:
        network: a backbone without hidden layers in its head.
        folder: cache of the features; after an interruption, those that were computed are reused.

    Raises:
        ConfigError: the weights cannot be downloaded or read.
        DiskError: there is no space for the features.
    """
    assert not network.hidden
    model = build(network, preprocessing, images.table.classes, seed=0).to(device)
    model.learn("head")
    loader, rows_N = BatchLoader(images.store, images.table.labels, device), np.arange(len(images.table))
    engines = Engines()
    precision, reason = resolve_frozen(
        "auto", asked="auto", run="fp32", model=model, loader=loader, rows_N=rows_N, engines=engines
    )
    if reason:
        logger.info(reason)
    frozen = FrozenPass(
        model,
        trunk_key(network),
        loader,
        images.content,
        folder,
        Compute(device, precision),
        StopSignal(),  # not entered, so that Ctrl-C ends the command at once
        engines,
    )
    feature_loader = frozen.evaluation(rows_N)
    if feature_loader is None:
        raise DiskError(f"{folder}: cannot store the features. Set LOUPE_CACHE to a folder with more free space.")
    pool = model.head[:-1].eval()
    parts = [pool(batch.x_BCHW).float().cpu().numpy() for batch in feature_loader.batches(rows_N, 8 * PASS_BATCH)]
    return np.concatenate(parts).astype(np.float32, copy=False)
