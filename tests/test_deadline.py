"""Work that stops at the end of its time."""

import numpy as np
import pytest

from loupe.config.recipe import Preprocessing
from loupe.data.dataset import Dataset
from loupe.data.pixels import decoding, store
from loupe.data.pixels.prepare import load_images
from loupe.data.sources.arrays import from_arrays
from loupe.deadline import stopping_when
from loupe.errors import StoppedError


def test_decoding_stops_at_the_end_of_the_time_and_leaves_nothing(tmp_path, monkeypatch):
    dataset = from_arrays(np.zeros((600, 8, 8, 3), np.uint8), np.arange(600) % 2)
    monkeypatch.setattr(store, "SMALL_BYTES", 0)
    monkeypatch.setattr(decoding, "CHUNK_IMAGES", 100)
    seen = []

    def over() -> bool:
        seen.append(1)
        return len(seen) > 2

    pixels = Preprocessing(size_px=8, load_px=8)
    with stopping_when(over), pytest.raises(StoppedError):
        load_images(Dataset(None, dataset), pixels, cache=tmp_path)
    assert not [file for file in (tmp_path / "pixels").rglob("*") if file.is_file()]
    assert len(load_images(Dataset(None, dataset), pixels, cache=tmp_path).table) == 600
