"""The features of images: what a frozen backbone makes of them, and a linear head gets.

On a CPU they are those of `loupe train --recipe features` in the same precision, kept under the same key: whoever has
them does not compute them.
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
    """float32 [N, C], a row for each image of the table, as evaluation sees it.

    Args:
        network: without hidden layers, which would be features of no one's.
        folder: where they are kept. What was computed before an interruption is there too.

    Raises:
        LoupeError: weights that cannot be had, or no room on the disk.
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
        StopSignal(),  # not entered: Ctrl-C ends the command at once
        engines,
    )
    kept = frozen.evaluation(rows_N)
    if kept is None:
        raise DiskError(f"the features cannot be kept under {folder}. Set LOUPE_CACHE to a folder with more room.")
    pool = model.head[:-1].eval()
    parts = [pool(batch.x_BCHW).float().cpu().numpy() for batch in kept.batches(rows_N, 8 * PASS_BATCH)]
    return np.concatenate(parts).astype(np.float32, copy=False)
