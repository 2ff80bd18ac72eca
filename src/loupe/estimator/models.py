"""Fitted models of the scikit-learn estimator: each predicts logits, and pickles as its network without any images."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import safetensors.torch

from loupe.cache import cache_folder
from loupe.config.network import BackboneSpec, without_weights
from loupe.config.recipe import Preprocessing
from loupe.data.dataset import Dataset
from loupe.data.file_state import State
from loupe.data.pixels.prepare import undecoded_images
from loupe.data.table import ImageTable
from loupe.devices import choose_device
from loupe.estimator.head import Features, Floats, Head
from loupe.models.build import build
from loupe.models.pretrained import weights_files
from loupe.runs.predictor import Predictor
from loupe.training.features import CLASSES, FeatureExtractor

KEPT_EXTRACTORS = 2  # in a process: clones of one estimator share a backbone


@dataclass
class FrozenBackbone:
    """Frozen backbone whose features are kept in the cache. It pickles with its weights.

    Attributes:
        device: as for `loupe.train`.
        cache: folder of the cache; None for the user's.
        weights: tensors in the safetensors format; None where those that `network` names are read.
    """

    network: BackboneSpec
    preprocessing: Preprocessing
    device: str
    cache: str | None
    weights: bytes | None = field(default=None, repr=False)
    _loaded: FeatureExtractor | None = field(default=None, repr=False)

    @property
    def extractor(self) -> FeatureExtractor:
        """Backbone on its device, built when it is first used."""
        if self._loaded is None:
            folder = (cache_folder() if self.cache is None else Path(self.cache).expanduser()) / "features"
            if self.weights is None:
                file = next(iter(weights_files(self.network)), None)
                state = None if file is None else State.of(file.stat())
                self._loaded = _extractor(self.network, self.preprocessing, self.device, folder, state)
            else:
                model = build(without_weights(self.network), self.preprocessing, CLASSES, seed=0)
                model.load_state_dict(safetensors.torch.load(self.weights))
                device = choose_device(self.device)
                self._loaded = FeatureExtractor(self.network, self.preprocessing, device, folder, model)
        return self._loaded

    def features(self, table: ImageTable) -> tuple[Features, tuple[str, ...]]:
        """Features of the images, float32 [N, C], and the hash of each image."""
        images = undecoded_images(Dataset(None, table), self.preprocessing)
        return self.extractor.features(images), images.content

    def __getstate__(self) -> dict[str, Any]:
        state = self.extractor.model.state_dict()
        weights = self.weights or safetensors.torch.save({name: one.cpu().contiguous() for name, one in state.items()})
        return {**self.__dict__, "weights": weights, "_loaded": None}


@lru_cache(maxsize=KEPT_EXTRACTORS)
def _extractor(
    network: BackboneSpec, preprocessing: Preprocessing, device: str, folder: Path, state: State | None
) -> FeatureExtractor:
    """Extractor of these weights; `state` is that of their file, so that a changed file is read again."""
    return FeatureExtractor(network, preprocessing, choose_device(device), folder)


@dataclass
class HeadOnBackbone:
    """Linear head on the features of a frozen backbone."""

    backbone: FrozenBackbone
    head: Head

    def logits(self, table: ImageTable) -> Floats:
        """Logits of images, float64 [N, K]."""
        return self.head.logits(self.backbone.features(table)[0])


@dataclass
class TrainedNetwork:
    """Network of a training, as the files of its bundle by their names; its probabilities are calibrated."""

    files: Mapping[str, bytes] = field(repr=False)
    device: str
    _loaded: Predictor | None = field(default=None, repr=False)

    @classmethod
    def of(cls, folder: Path, device: str) -> "TrainedNetwork":
        """Network of a bundle in a folder."""
        return cls({file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file()}, device)

    @property
    def predictor(self) -> Predictor:
        """Predictor with its network in memory, loaded when it is first used."""
        if self._loaded is None:
            with TemporaryDirectory(prefix="loupe-model-") as name:
                for file, data in self.files.items():
                    Path(name, file).write_bytes(data)
                predictor = Predictor(Path(name), device=self.device)
                _ = predictor.config, predictor.engine  # read before the folder is gone
            self._loaded = predictor
        return self._loaded

    def logits(self, table: ImageTable) -> Floats:
        """Calibrated logits of images, float64 [N, K]."""
        predictions = self.predictor.predictions(table)
        return np.asarray(predictions.logits_NK, np.float64) / self.predictor.temperature

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}
