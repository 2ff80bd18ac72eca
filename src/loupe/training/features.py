"""Features of images: pooled outputs of a frozen backbone, which are the inputs of a linear head.

They are kept for each image in `feature_store`. Only what is missing is computed, in batches of one size: an image's
features have the same bits alone, in another order or among other images.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL
import torch
from torch import Tensor

from loupe import __version__
from loupe.augment.pipeline import evaluation_view
from loupe.config.network import BackboneSpec
from loupe.config.recipe import Preprocessing
from loupe.data.pixels import decode
from loupe.data.pixels.batches import BatchLoader
from loupe.data.pixels.prepare import Images
from loupe.devices import Compute, Resolved
from loupe.errors import DivergedError, counted, unknown_name
from loupe.log import logger, progress_bar
from loupe.models.build import build
from loupe.models.classifier import Classifier
from loupe.models.engine import Engine, Engines, digest_of, engine_gains_from_bf16, engine_name
from loupe.settled import machine, settled
from loupe.training.feature_store import FeatureStore
from loupe.training.frozen import trunk_key
from loupe.training.precision import resolve_frozen
from loupe.training.solver import logits_layer

FORMAT = 1  # of the stored features; a change of their values takes the next number
BATCH_IMAGES = 16  # of every batch: a smaller one is filled up
TIMED_BATCHES = 2  # after one that fills caches

CLASSES = ("0", "1")  # of a head that is not used

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# Views of an image: transforms of the input of the network, [B, C, H, W].
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda x_BCHW: x_BCHW,
    "mirrored": lambda x_BCHW: x_BCHW.flip(3),
    "upside-down": lambda x_BCHW: x_BCHW.flip(2),
}


def features(
    network: BackboneSpec,
    preprocessing: Preprocessing,
    images: Images,
    *,
    device: torch.device,
    folder: Path,
    rows_N: Ints | None = None,
    view: str = "plain",
) -> Floats:
    """Features of images of the table, float32 [N, C].

    Args:
        network: a backbone without hidden layers in its head.
        folder: folder of the stored features. After an interruption, those that were computed are reused.
        rows_N: rows of the images; None for all.
        view: name in VIEWS.

    Raises:
        ConfigError: the weights cannot be downloaded or read, or the view is unknown.
        DivergedError: features that are not finite.
        ImageError: an image that is decoded now is damaged.
    """
    return FeatureExtractor(network, preprocessing, device, folder).features(images, rows_N, view)


@dataclass(frozen=True)
class FeatureEstimate:
    """Time that the missing features of some images take: their number, and seconds for each."""

    missing_images: int
    seconds_per_image: float

    @property
    def seconds(self) -> float:
        return self.missing_images * self.seconds_per_image


class FeatureExtractor:
    """Frozen backbone with the store of its features. The engine is built when features are missing.

    Args:
        network: a backbone without hidden layers in its head.
        folder: folder of the stored features.
        model: network with its weights; None: it is built.

    Raises:
        ConfigError: the weights cannot be downloaded or read.
    """

    def __init__(
        self,
        network: BackboneSpec,
        preprocessing: Preprocessing,
        device: torch.device,
        folder: Path,
        model: Classifier | None = None,
    ) -> None:
        assert not network.hidden
        self.network, self.preprocessing, self.device, self.folder = network, preprocessing, device, folder
        self.model = (model or build(network, preprocessing, CLASSES, seed=0)).to(device)
        self.model.learn("head")
        self.model.eval()
        self.pool = self.model.head[:-1]
        self.columns = logits_layer(self.model).in_features
        self._engines = Engines()
        self._precision: Resolved | None = None
        self._told = set[str]()

    @cached_property
    def digest(self) -> str:
        """Hash of the layers, weights and statistics of the trunk and its pooling."""
        return hashlib.sha256(f"{digest_of(self.model.trunk)} {digest_of(self.pool)}".encode()).hexdigest()

    def features(self, images: Images, rows_N: Ints | None = None, view: str = "plain") -> Floats:
        """Features of images of the table, float32 [N, C]; see `features`."""
        rows_N = np.arange(len(images.table)) if rows_N is None else np.asarray(rows_N, np.int64)
        if not len(rows_N):
            return np.zeros((0, self.columns), np.float32)
        store = self.store(images, rows_N, view)
        return store.complete(
            [images.content[row] for row in rows_N],
            lambda missing_M: self._announced(images, rows_N[missing_M], view),
            self._on_wait,
        )

    def estimate(self, images: Images, rows_N: Ints | None = None, view: str = "plain") -> FeatureEstimate:
        """Time that the missing features of these images take. Up to three batches are computed, timed and kept."""
        rows_N = np.arange(len(images.table)) if rows_N is None else np.asarray(rows_N, np.int64)
        if not len(rows_N):
            return FeatureEstimate(0, 0.0)
        store = self.store(images, rows_N, view)
        missing_M = rows_N[store.read([images.content[row] for row in rows_N])[1]]
        rows_M = missing_M[np.sort(np.unique([images.content[row] for row in missing_M], return_index=True)[1])]
        timed_M, seconds = rows_M[: (1 + TIMED_BATCHES) * BATCH_IMAGES], list[float]()
        if len(rows_M):
            self.engine(images, rows_N)  # built before the clock starts

        def compute(positions_M: Ints) -> Iterator[Floats]:
            began = time.perf_counter()
            for features_BC in self._computed(images, timed_M[positions_M], view):
                seconds.append(time.perf_counter() - began)
                yield features_BC
                began = time.perf_counter()

        store.complete([images.content[row] for row in timed_M], compute, self._on_wait)
        left = len(rows_M) - len(timed_M)
        return FeatureEstimate(left, sum(seconds[1:]) / (TIMED_BATCHES * BATCH_IMAGES) if left else 0.0)

    def store(self, images: Images, rows_N: Ints, view: str) -> FeatureStore:
        """Store of the features in a view. The images are those that a choice of the precision compares."""
        if view not in VIEWS:
            raise unknown_name("view", view, VIEWS)
        compute = Compute(self.device, self.precision(images, rows_N))
        key = {
            "format": FORMAT,
            "made_by": [__version__, engine_name(compute), version("timm")],
            "decoded_by": [decode.DECODER_VERSION, PIL.__version__],
            "network": trunk_key(self.network),
            "blocks": self.digest,
            "preprocessing": self.preprocessing.model_dump(mode="json"),
            "precision": compute.precision,
            "device": self.device.type,
            "batch": BATCH_IMAGES,
        }
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        return FeatureStore(self.folder, name, view, self.columns)

    def precision(self, images: Images, rows_N: Ints) -> Resolved:
        """Precision of the backbone: chosen once for it on this machine, so that it depends on no later images."""
        if self._precision is None:
            self._precision, reason = self._settled_precision(images, rows_N)
            if reason:
                logger.info(reason)
        return self._precision

    def _settled_precision(self, images: Images, rows_N: Ints) -> tuple[Resolved, str]:
        if self.device.type != "cpu" or not engine_gains_from_bf16(self.device):
            return "fp32", ""
        # A precision is chosen by agreement and not by speed, so that it is one for any number of threads.
        place = {name: value for name, value in machine(self.device).items() if name != "threads"}
        work = {"choice": "precision of features", "engine": engine_name(Compute(self.device, "bf16"))}
        work |= {"blocks": self.digest, "preprocessing": self.preprocessing.model_dump_json()}
        chosen, reason = settled(work, lambda: self._compared(images, rows_N), self.device, place=place)
        return "bf16" if chosen == "bf16" else "fp32", reason

    def _compared(self, images: Images, rows_N: Ints) -> tuple[Resolved, str]:
        loader = BatchLoader(images.store, images.table.labels, self.device, resident_bytes=0)
        chosen, reason = resolve_frozen(
            "auto",
            asked="auto",
            run="fp32",
            model=self.model,
            loader=loader,
            rows_N=rows_N,
            engines=self._engines,
        )
        return chosen, reason.removesuffix(".") or f"frozen blocks run in {chosen}: no faster engine runs them in bf16"

    def engine(self, images: Images, rows_N: Ints) -> Engine:
        """Engine of the trunk, built when it is first needed."""
        compute = Compute(self.device, self.precision(images, rows_N))
        built, reason = self._engines.of(
            self.model.trunk, compute, self.preprocessing.size, self.preprocessing.channels
        )
        if reason and reason not in self._told:
            self._told.add(reason)
            logger.info(f"frozen blocks run in {built.name}: {reason}.")
        return built

    def _announced(self, images: Images, rows_M: Ints, view: str) -> Iterator[Floats]:
        """Features of images that are missing, with a message and a progress bar."""
        shown = "" if view == "plain" else f" in the view {view!r}"
        logger.info(
            f"computing the features of {counted(len(rows_M), 'image')}{shown} by {self.network.name} at "
            f"{self.preprocessing.size} px, kept in {self.folder}."
        )
        with progress_bar() as progress:
            bar = progress.add_task("features", total=len(rows_M), note="")
            for features_BC in self._computed(images, rows_M, view):
                progress.update(bar, advance=len(features_BC))
                yield features_BC

    @torch.inference_mode()
    def _pooled(self, outputs: npt.NDArray[np.float32]) -> Floats:
        """Features [B, C] of the outputs of the trunk, maps [B, H, W, C] or others."""
        x = torch.from_numpy(np.ascontiguousarray(outputs)).to(self.device)
        pooled: Tensor = self.pool(x.permute(0, 3, 1, 2) if x.ndim == 4 else x)
        return pooled.float().cpu().numpy()

    def _computed(self, images: Images, rows_M: Ints, view: str) -> Iterator[Floats]:
        """Features of images, in batches of BATCH_IMAGES, of which the last may be smaller."""
        loader = BatchLoader(images.store, images.table.labels, self.device, resident_bytes=0)
        transform, left = VIEWS[view], len(rows_M)
        alone = len(rows_M) % BATCH_IMAGES == 1  # it would join the batch before, which would then be larger
        order_M = np.append(rows_M, rows_M[-1]) if alone else rows_M

        def inputs() -> Iterator[Tensor]:
            for batch in loader.batches(order_M, BATCH_IMAGES):
                x_BCHW = transform(evaluation_view(batch.x_BCHW, self.preprocessing))
                filled_BCHW = torch.zeros((BATCH_IMAGES, *x_BCHW.shape[1:]), device=self.device)
                filled_BCHW = filled_BCHW.to(memory_format=torch.channels_last)
                filled_BCHW[: len(batch)] = x_BCHW
                yield filled_BCHW

        for outputs in self.engine(images, rows_M).run(inputs()):
            features_BC = self._pooled(outputs)[:left]
            if not np.isfinite(features_BC).all():
                raise DivergedError(f"{self.network.name} gives features that are not finite. Its weights are damaged.")
            left -= len(features_BC)
            yield features_BC

    def _on_wait(self) -> None:
        """Log once that another process computes features of the same network."""
        if "waiting" not in self._told:
            self._told.add("waiting")
            logger.info("another process computes features of the same network: waiting for it to finish.")
