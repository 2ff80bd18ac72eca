"""What is frozen is computed once: the activations before the first block that learns, for each image and view.

They are a pure function of weights, layers, preprocessing, pixels and view, and are kept under a key of all these, so
that every run and recipe with the same key shares them. The rest of the network then trains on them as it would on
images.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from torch import Tensor, nn

from loupe import __version__
from loupe.augment.pipeline import Augmenter, evaluation_view
from loupe.config.network import Network
from loupe.data.pixels import decode
from loupe.data.pixels.batches import Batch, BatchLoader, room_bytes
from loupe.devices import Compute, StopSignal
from loupe.errors import StoppedError
from loupe.log import duration, logger, progress_bar, size_text
from loupe.models.classifier import Classifier
from loupe.models.engine import Engine, Engines, digest_of, engine_name
from loupe.training import activations
from loupe.training.activation_loader import ActivationLoader, placed
from loupe.training.activations import DTYPES, Array

SPARE_DISK_BYTES = 2**30
PASS_BATCH = 32
FORMAT = 1  # of what is kept; a change of what is computed takes the next number
View = Callable[[Batch], Tensor]


class HalfPrecisionError(ArithmeticError):
    """An activation does not fit a half-precision number."""


@dataclass(frozen=True)
class PassEstimate:
    """Shape of one image's activations, and the seconds that the pass takes for one image."""

    shape: tuple[int, ...]
    seconds: float

    @property
    def dtypes(self) -> Sequence[type[np.floating[Any]]]:
        """Types that activations are kept in, the first that holds them; vectors are too small to be rounded."""
        return DTYPES if len(self.shape) > 1 else DTYPES[1:]

    def size_bytes(self, images: int, dtype: type[np.floating[Any]] | None = None) -> int:
        """Bytes of the activations of so many images; without a type, in the first of `dtypes`."""
        return images * int(np.prod(self.shape, dtype=np.int64)) * np.dtype(dtype or self.dtypes[0]).itemsize


def trunk_key(network: Network) -> str:
    """Name and settings of a network, without its weights and without the hidden layers of its head."""
    return network.model_dump_json(exclude={"weights", "hidden"})


@dataclass
class FrozenPass:
    """Computes what lies before the first block that learns, or finds it.

    Attributes:
        network: its `trunk_key`; content: hashes of the images, in the order of the table.
        folder: where the activations are kept.
        estimated: shape and time of an image's activations, once they have been measured.
        spent: the seconds that what was found or computed took when it was computed; None where that is not known.
    """

    model: Classifier
    network: str
    loader: BatchLoader
    content: tuple[str, ...]
    folder: Path
    arithmetic: Compute
    stop: StopSignal
    engines: Engines = field(default_factory=Engines)
    said: set[str] = field(default_factory=set)
    estimated: PassEstimate | None = None
    spent: float | None = 0.0

    @property
    def blocks(self) -> nn.Sequential:
        return self.model.trunk[: self.model.frozen]

    @cached_property
    def digest(self) -> str:
        """Of the frozen blocks: layers, weights, statistics."""
        return digest_of(self.blocks)

    def evaluation(self, rows_N: np.ndarray) -> ActivationLoader | None:
        """The images of these rows as evaluation sees them; None where they do not fit the disk.

        Those of all images are taken where they are there.
        """
        if not len(rows_N):  # neither validation nor test images, and none to look at training images
            return self._feed([np.empty(0, np.float32)], rows_N, 0)
        every_N = np.arange(len(self.loader.labels_N))
        view = self._found({"kind": "evaluation", "rows": _digest_of(every_N)}, len(every_N))
        if view is not None:
            return self._feed([view], every_N, 0)
        view = self._view({"kind": "evaluation"}, rows_N, self._evaluation_view)
        return None if view is None else self._feed([view], rows_N, 0)

    def augmented(self, augmenter: Augmenter, epochs: Sequence[int], rows_N: np.ndarray) -> ActivationLoader | None:
        """The views that these rows' images have in `epochs`; None where they do not fit the disk."""
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
        return self._feed(views, rows_N, epochs[0])

    def _feed(self, views: Sequence[Array], rows_N: np.ndarray, first_epoch: int) -> ActivationLoader:
        place_N = np.full(len(self.loader.labels_N), -1, np.int64)
        place_N[rows_N] = np.arange(len(rows_N))
        device = self.loader.device
        tensors = placed(views, device, room_bytes(device))
        return ActivationLoader(tensors, place_N, self.loader.labels_N, device, first_epoch)

    def _evaluation_view(self, batch: Batch) -> Tensor:
        return evaluation_view(batch.x_BCHW, self.model.preprocessing)

    def _augmented_view(self, augmenter: Augmenter, epoch: int, batch: Batch) -> Tensor:
        return augmenter.train(batch.x_BCHW, batch.index_B, epoch)

    def _view(self, kind: dict[str, Any], rows_N: np.ndarray, view: View, copies: int = 1) -> Array | None:
        """One view of the images, found or computed now; None where it does not fit the disk."""
        kind |= {"rows": _digest_of(rows_N)}
        found = self._found(kind, len(rows_N))
        if found is not None:
            return found
        remark = self.engine[1]  # built now: what it takes is not the images' time
        if remark and remark not in self.said:
            self.said.add(remark)
            logger.info(f"what is frozen runs in {self.engine[0].name}: {remark}.")
        estimated = self.estimated = self.estimated or self.estimate(rows_N[:PASS_BATCH], view)
        seconds = estimated.seconds * len(rows_N)
        for dtype in estimated.dtypes:
            key, shape = self._key(kind, dtype), (len(rows_N), *estimated.shape)
            size = estimated.size_bytes(len(rows_N), dtype)
            try:
                if not self._fits(size * copies - activations.begun_bytes(self.folder, key)):
                    return None
                self._announce(kind["kind"] == "evaluation", len(rows_N), size, seconds, copies)
                rows = partial(self._rows, rows_N, view, dtype)
                made = activations.kept(self.folder, key, shape, dtype, rows, self._waiting)
                self._count(self.folder / key)
                return made
            except HalfPrecisionError:
                continue
            except OSError as error:
                logger.info(
                    f"what is frozen cannot be kept under {self.folder} ({error.strerror or error}): it is computed "
                    "anew in every epoch."
                )
                return None
        raise AssertionError("single precision holds whatever the network makes")

    def estimate(self, rows_N: np.ndarray, view: View) -> PassEstimate:
        """Time the pass over these images; of more than one batch, after a first one that fills caches."""
        assert self.engine  # built before the clock starts
        if len(rows_N) > PASS_BATCH:
            next(self._computed(rows_N[:PASS_BATCH], view))
        began, made = time.perf_counter(), list(self._computed(rows_N, view))
        return PassEstimate(made[0].shape[1:], (time.perf_counter() - began) / len(rows_N))

    def _found(self, kind: dict[str, Any], images: int) -> Array | None:
        """What was kept before, in either precision."""
        for dtype in DTYPES:
            place = self.folder / self._key(kind, dtype)
            found = activations.opened(place)
            if found is not None and len(found) == images:
                self._count(place)
                return found
        return None

    def _count(self, place: Path) -> None:
        """Adds what the activations there took; of a sum that holds an unknown time nothing is known."""
        seconds = activations.seconds_of(place)
        self.spent = None if self.spent is None or seconds is None else self.spent + seconds

    def _waiting(self) -> None:
        if self.stop.received:
            raise StoppedError("stopped; nothing was lost.")
        if "waiting" not in self.said:
            self.said.add("waiting")
            logger.info("another run is computing the same frozen blocks: this one waits for them.")

    def _key(self, kind: dict[str, Any], dtype: type[np.floating[Any]]) -> str:
        made = {
            "format": FORMAT,
            "made_by": [__version__, engine_name(self.arithmetic), version("timm")],
            "decoded_by": [decode.DECODER_VERSION, PIL.__version__],
            "content": self._content,
            "network": self.network,
            "blocks": self.digest,
            "preprocessing": self.model.preprocessing.model_dump(mode="json"),
            "precision": self.arithmetic.precision,
            "device": self.loader.device.type,
            "dtype": dtype.__name__,
            **kind,
        }
        return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:32]

    @cached_property
    def _content(self) -> str:
        return hashlib.sha256("".join(self.content).encode()).hexdigest()

    def _fits(self, size: int) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free - SPARE_DISK_BYTES
        if size <= free:
            return True
        logger.info(
            f"the activations of what is frozen would take {size_text(size)}, and {self.folder} has "
            f"{size_text(max(0, free))} to spare: they are computed anew in every epoch. Set LOUPE_CACHE to a larger "
            "disk, or fewer views."
        )
        return False

    def _announce(self, evaluation: bool, images: int, size: int, seconds: float, copies: int) -> None:
        kind = "evaluation" if evaluation else "augmented"
        if kind in self.said:  # the first of several views tells of them all
            return
        self.said.add(kind)
        views = "an augmented view" if copies == 1 else f"{copies} augmented views"
        what = f"{images:,} images" if evaluation else f"{images:,} training images in {views}"
        blocks = f"{self.model.frozen} of {len(self.model.trunk)} blocks"
        logger.info(
            f"what is frozen ({blocks}) is computed once, for {what}: {size_text(size * copies)} under "
            f"{self.folder}, about {duration(seconds * copies)}."
        )

    def _rows(self, rows_N: np.ndarray, view: View, dtype: type[np.floating[Any]], first: int) -> Iterator[Array]:
        """The activations of the rows from number `first` on, batch by batch."""
        with progress_bar() as progress, np.errstate(over="ignore"):
            bar = progress.add_task("frozen blocks", total=len(rows_N), completed=first, note="")
            for made in self._computed(rows_N[first:], view):
                if self.stop.received:
                    raise StoppedError("stopped; what was computed is kept.")
                kept = made.astype(dtype, copy=False)
                if dtype is np.float16 and not np.isfinite(kept).all():
                    raise HalfPrecisionError
                progress.update(bar, advance=len(kept))
                yield kept

    def _computed(self, rows_N: np.ndarray, view: View) -> Iterator[Array]:
        """float32 [B, ...] for each batch of these rows' images."""
        return self.engine[0].run(view(batch) for batch in self.loader.batches(rows_N, PASS_BATCH))

    @cached_property
    def engine(self) -> tuple[Engine, str]:
        """What computes them, and why it is not the fastest, if it is not."""
        return self.engines.of(self.blocks, self.arithmetic, self.model.preprocessing.size_px)


def _digest_of(rows_N: np.ndarray) -> str:
    return hashlib.sha256(rows_N.tobytes()).hexdigest()
