"""A folder of small images, a tiny stored classifier, and the number of decodings."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from bulk_predictions import BATCH, COUNT, stored_model
from loupe.data.pixels import decoding


@pytest.fixture
def photos(tmp_path):
    """23 images in three folders, in the working directory."""
    rng = np.random.default_rng(0)
    for k in range(COUNT):
        folder = tmp_path / "photos" / "abc"[k % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 10, 3), np.uint8)).save(folder / f"{k:02}.png")
    return tmp_path / "photos"


@pytest.fixture
def stored(monkeypatch, tmp_path_factory):
    """A classifier of three classes; batches are small."""
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr("loupe.models.torch_network.batch_size", lambda _: BATCH)
    return stored_model(tmp_path_factory.mktemp("model"), ("a", "b", "c"))


@pytest.fixture
def decodes(monkeypatch):
    """Number of decodings of each image."""
    counts: Counter[str] = Counter()
    load = decoding.load

    def counted(data, path, **how):
        counts[path] += 1
        return load(data, path, **how)

    monkeypatch.setattr(decoding, "load", counted)
    return counts
