"""Outputs of frozen blocks, computed once for each image and view, and cached.

They are a pure function of weights, layers, preprocessing, pixels and view. The cache key is a hash of all these, so
that all runs and recipes with the same key share them. The rest of the network trains on them as it would on images.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from torch import Tensor, nn

from loupe import __version__, ranks
from loupe.augment.pipeline import Augmenter, evaluation_view
from loupe.config.network import BlendSpec, Network, without_weights
from loupe.data.array_file import Array
from loupe.data.pixels import decode
from loupe.data.pixels.batches import Batch, BatchLoader, room_bytes
from loupe.devices import Compute, StopSignal
from loupe.errors import StoppedError, counted
from loupe.log import duration, logger, progress_bar, size_text
from loupe.models.classifier import Classifier
from loupe.models.engine import Engine, Engines, TorchEngine, digest_of, engine_name
from loupe.training import activations
from loupe.training.activation_loader import ActivationLoader, on_device
from loupe.training.activations import DTYPES

SPARE_DISK_BYTES = 2**30
PASS_BATCH = 32
ROUND_SECONDS = 1.0  # that each of several ranks computes before it writes; the others learn of its end then
FORMAT = 1  # of the cached activations; a change of their values takes the next number
View = Callable[[Batch], Tensor]


class HalfPrecisionError(ArithmeticError):
    """Activation beyond the range of half precision."""


@dataclass(frozen=True)
class PassEstimate:
    """Shape of one image's activations, and the seconds that the pass takes for one image."""

    shape: tuple[int, ...]
    seconds: float

    @property
    def dtypes(self) -> Sequence[type[np.floating[Any]]]:
        """Types to try for cached activations, in this order; vectors are so small that they stay in float32."""
        return DTYPES if len(self.shape) > 1 else DTYPES[1:]

    def size_bytes(self, images: int, dtype: type[np.floating[Any]] | None = None) -> int:
        """Bytes of the activations of that many images; without a type, in the first of `dtypes`."""
        return images * int(np.prod(self.shape, dtype=np.int64)) * np.dtype(dtype or self.dtypes[0]).itemsize


def trunk_key(network: Network) -> str:
    """Name and settings of a network, without its weights and without the hidden layers of its head."""
    if isinstance(network, BlendSpec):
        network = without_weights(network)
    return network.model_dump_json(exclude={"weights", "hidden"})


@dataclass
class FrozenPass:
    """Pass of images through the frozen blocks, with a cache of its outputs.

    Attributes:
        network: `trunk_key` of the network.
        content: hashes of the images, in the order of the table.
        folder: cache of the activations.
        logged: kinds of messages that have been logged; each is logged once.
        pass_estimate: shape and time of one image's activations; None until measured.
        computed_seconds: time that computing the activations took, now or in the run that cached them; None if unknown.
    """

    model: Classifier
    network: str
    loader: BatchLoader
    content: tuple[str, ...]
    folder: Path
    compute: Compute
    stop: StopSignal
    engines: Engines = field(default_factory=Engines)
    logged: set[str] = field(default_factory=set)
    pass_estimate: PassEstimate | None = None
    computed_seconds: float | None = 0.0

    @property
    def blocks(self) -> nn.Sequential:
        return self.model.trunk[: self.model.frozen]

    @cached_property
    def digest(self) -> str:
        """Hash of the frozen blocks: layers, weights, statistics."""
        return digest_of(self.blocks)

    def evaluation(self, rows_N: np.ndarray) -> ActivationLoader | None:
        """Loader of the activations of these rows in the evaluation view; None if they do not fit on the disk.

        Activations of all images are used if they are cached.
        """
        if not len(rows_N):  # no validation or test images, and no need for training images
            return self._loader([np.empty(0, np.float32)], rows_N, 0)
        return _if_all_have(self._evaluation(rows_N))

    def _evaluation(self, rows_N: np.ndarray) -> ActivationLoader | None:
        all_N = np.arange(len(self.loader.labels_N))
        view = self._cached({"kind": "evaluation", "rows": _rows_digest(all_N)}, len(all_N))
        if view is not None:
            return self._loader([view], all_N, 0)
        view = self._view({"kind": "evaluation"}, rows_N, self._evaluation_view)
        return None if view is None else self._loader([view], rows_N, 0)

    def augmented(self, augmenter: Augmenter, epochs: Sequence[int], rows_N: np.ndarray) -> ActivationLoader | None:
        """Loader of the augmented views of these rows in `epochs`; None if they do not fit on the disk."""
        return _if_all_have(self._augmented(augmenter, epochs, rows_N))

    def _augmented(self, augmenter: Augmenter, epochs: Sequence[int], rows_N: np.ndarray) -> ActivationLoader | None:
        views = []
        for number, epoch in enumerate(epochs):
            kind = {
                "kind": "augmented",
                "epoch": epoch,
                "seed": augmenter.seed,
                **augmenter.spec.model_dump(mode="json"),
            }
            view = self._view(
                kind, rows_N, partial(self._augmented_view, augmenter, epoch), copies=len(epochs) - number
            )
            if view is None:
                return None
            views.append(view)
        return self._loader(views, rows_N, epochs[0])

    def _loader(self, views: Sequence[Array], rows_N: np.ndarray, first_epoch: int) -> ActivationLoader:
        view_row_N = np.full(len(self.loader.labels_N), -1, np.int64)
        view_row_N[rows_N] = np.arange(len(rows_N))
        device = self.loader.device
        tensors = on_device(views, device, room_bytes(device))
        return ActivationLoader(tensors, view_row_N, self.loader.labels_N, device, first_epoch)

    def _evaluation_view(self, batch: Batch) -> Tensor:
        return evaluation_view(batch.x_BCHW, self.model.preprocessing)

    def _augmented_view(self, augmenter: Augmenter, epoch: int, batch: Batch) -> Tensor:
        return augmenter.train(batch.x_BCHW, batch.index_B, epoch)

    def _view(self, kind: dict[str, Any], rows_N: np.ndarray, view: View, copies: int = 1) -> Array | None:
        """Activations of one view of the images, cached or computed now; None if they do not fit on the disk."""
        kind |= {"rows": _rows_digest(rows_N)}
        cached = self._cached(kind, len(rows_N))
        if cached is not None:
            return cached
        engine, reason = self.engine  # built now, so that the time of building it is not counted as the images'
        if reason and reason not in self.logged:
            self.logged.add(reason)
            logger.info(f"frozen blocks run in {engine.name}: {reason}.")
        machine, estimate = ranks.on_machine(), self._agreed_estimate(rows_N, view)
        seconds = estimate.seconds * len(rows_N) / machine.count
        round_batches = max(1, int(ROUND_SECONDS / max(estimate.seconds * PASS_BATCH, 1e-6)))
        for dtype in estimate.dtypes:
            key, shape = self._key(kind, dtype), (len(rows_N), *estimate.shape)
            size = estimate.size_bytes(len(rows_N), dtype)
            try:
                if not machine.from_main(partial(self._fits_disk, size * copies, key)):
                    return None
                self._announce(kind["kind"] == "evaluation", len(rows_N), size, seconds, copies)
                rows = partial(self._rows, rows_N, view, dtype)
                computed = activations.load_or_compute(
                    self.folder, key, shape, dtype, rows, self._on_wait, batch=PASS_BATCH, round_batches=round_batches
                )
                self._add_seconds(self.folder / key)
                return computed
            except HalfPrecisionError:
                continue
            except OSError as error:
                logger.info(
                    f"outputs of the frozen blocks cannot be written to {self.folder} ({error.strerror or error}): the "
                    "frozen blocks run in every epoch. Set LOUPE_CACHE to a folder that can be written to."
                )
                return None
        raise AssertionError("float32 holds all outputs of a network")

    def _agreed_estimate(self, rows_N: np.ndarray, view: View) -> PassEstimate:
        """Estimate of the first rank of the machine, measured once, while the others compute too."""
        machine = ranks.on_machine()
        if self.pass_estimate is None:
            own = machine.together(lambda: self.estimate(rows_N[:PASS_BATCH], view))
            self.pass_estimate = machine.gather(own)[0]
        return self.pass_estimate

    def estimate(self, rows_N: np.ndarray, view: View) -> PassEstimate:
        """Time the pass over these images; with more than one batch, after a first batch that fills caches."""
        assert self.engine  # built before the clock starts
        if len(rows_N) > PASS_BATCH:
            next(self._computed(rows_N[:PASS_BATCH], view))
        began, outputs = time.perf_counter(), list(self._computed(rows_N, view))
        return PassEstimate(outputs[0].shape[1:], (time.perf_counter() - began) / len(rows_N))

    def _cached(self, kind: dict[str, Any], images: int) -> Array | None:
        """Cached activations, in either precision; None if there are none."""
        for dtype in DTYPES:
            path = self.folder / self._key(kind, dtype)
            cached = activations.load(path)
            if cached is not None and len(cached) == images:
                self._add_seconds(path)
                return cached
        return None

    def _add_seconds(self, path: Path) -> None:
        """Add the time that computing the activations took; with an unknown time, the sum is unknown."""
        seconds, before = activations.seconds_of(path), self.computed_seconds
        self.computed_seconds = None if before is None or seconds is None else before + seconds

    def _on_wait(self) -> None:
        """Log once that another process computes the same activations; it is called every second until then."""
        if ranks.on_machine().any(self.stop.received):
            raise StoppedError("stopped; nothing is lost.")
        if "waiting" not in self.logged:
            self.logged.add("waiting")
            logger.info("another run computes the outputs of the same frozen blocks: waiting for it to finish.")

    def _key(self, kind: dict[str, Any], dtype: type[np.floating[Any]]) -> str:
        key = {
            "format": FORMAT,
            "made_by": [__version__, engine_name(self.compute), version("timm")],
            "decoded_by": [decode.DECODER_VERSION, PIL.__version__],
            "content": self._content,
            "network": self.network,
            "blocks": self.digest,
            "preprocessing": self.model.preprocessing.model_dump(mode="json"),
            "precision": self.compute.precision,
            "device": self.loader.device.type,
            "dtype": dtype.__name__,
            **kind,
        }
        return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]

    @cached_property
    def _content(self) -> str:
        return hashlib.sha256("".join(self.content).encode()).hexdigest()

    def _fits_disk(self, size: int, key: str) -> bool:
        """Check the free space of the cache's disk; log that it is too small."""
        self.folder.mkdir(parents=True, exist_ok=True)
        size -= activations.partial_bytes(self.folder, key)
        free = shutil.disk_usage(self.folder).free - SPARE_DISK_BYTES
        if size <= free:
            return True
        logger.info(
            f"outputs of the frozen blocks would take {size_text(size)}, and {size_text(max(0, free))} are available "
            f"in {self.folder}: the frozen blocks run in every epoch. Set LOUPE_CACHE to a folder on a larger disk, or "
            "set fewer views."
        )
        return False

    def _announce(self, evaluation: bool, images: int, size: int, seconds: float, copies: int) -> None:
        """Log what is about to be computed, with its size and time: once for evaluation, once for augmented views."""
        kind = "evaluation" if evaluation else "augmented"
        if kind in self.logged:  # the message for the first of several views covers all of them
            return
        self.logged.add(kind)
        of_images = counted(images, "image" if evaluation else "training image")
        views = "" if evaluation else f" in {counted(copies, 'augmented view')}"
        logger.info(
            f"computing the outputs of {self.model.frozen} of {counted(len(self.model.trunk), 'block')} (frozen) once, "
            f"for {of_images}{views}: {size_text(size * copies)} in {self.folder}, about {duration(seconds * copies)}."
        )

    def _rows(
        self, rows_N: np.ndarray, view: View, dtype: type[np.floating[Any]], number_M: np.ndarray
    ) -> Generator[Array, None, None]:
        """Activations of the rows of these numbers, in batches of type `dtype`."""
        ranks_here = ranks.on_machine().count  # they compute as fast as this one
        with progress_bar() as progress, np.errstate(over="ignore"):
            done = len(rows_N) - ranks_here * len(number_M)
            bar = progress.add_task("frozen blocks", total=len(rows_N), completed=max(0, done), note="")
            for outputs in self._computed(rows_N[number_M], view):
                if self.stop.received:
                    raise StoppedError("stopped; finished outputs of the frozen blocks are kept.")
                rounded = outputs.astype(dtype, copy=False)
                if dtype is np.float16 and not np.isfinite(rounded).all():
                    raise HalfPrecisionError
                progress.update(bar, advance=ranks_here * len(rounded))
                yield rounded

    def _computed(self, rows_N: np.ndarray, view: View) -> Iterator[Array]:
        """Outputs of the frozen blocks, float32 [B, ...], for each batch of these rows."""
        return self.engine[0].run(view(batch) for batch in self.loader.batches(rows_N, PASS_BATCH))

    @cached_property
    def engine(self) -> tuple[Engine, str]:
        """Engine that runs the frozen blocks, and the reason if it is not the fastest one.

        It is the same in all processes of the machine: PyTorch, where another one cannot be built in each.
        """
        prepared, machine = self.model.preprocessing, ranks.on_machine()
        found = self.engines.of(self.blocks, self.compute, prepared.size, prepared.channels)
        if len(set(machine.gather(found[0].name))) > 1:
            return TorchEngine(self.blocks, self.compute), "a faster engine cannot be built in every process"
        return found


def _if_all_have(loader: ActivationLoader | None) -> ActivationLoader | None:
    """The loader, if every rank has one: they take the same branch, also on a machine with a smaller disk."""
    return None if ranks.current().any(loader is None) else loader


def _rows_digest(rows_N: np.ndarray) -> str:
    return hashlib.sha256(rows_N.tobytes()).hexdigest()
