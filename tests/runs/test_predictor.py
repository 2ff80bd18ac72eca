"""Many images are decoded as they are classified: once, to the same bits, and damage is met on the way."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image
from torch import nn

from loupe.config.network import CnnSpec
from loupe.config.recipe import Preprocessing
from loupe.data.dataset import Dataset
from loupe.data.pixels import decoding, prepare
from loupe.data.pixels.store import DamagedImages, RawStore, StreamedStore
from loupe.data.sources.folders import from_paths
from loupe.errors import LoupeError
from loupe.models.cnn import cnn
from loupe.models.engine import OpenVinoEngine
from loupe.runs import predictor as module
from loupe.runs.predictor import Predictor

COUNT, BATCH = 11, 4


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(COUNT):
        Image.fromarray(rng.integers(0, 256, (12, 10, 3), np.uint8)).save(tmp_path / f"{k:02}.png")
    return tmp_path


@pytest.fixture
def stored(monkeypatch, tmp_path_factory):
    """A classifier as if it lay in a folder, and the stores that it reads from; batches are small."""
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path_factory.mktemp("cache")))
    network = cnn(CnnSpec(name="tiny", blocks=()), Preprocessing(size_px=8, load_px=8), ("a", "b"), seed=0).eval()
    monkeypatch.setattr(module.bundle, "load", lambda *_: (network, "fp32"))
    monkeypatch.setattr(module.inference, "batch_size", lambda _: BATCH)
    return Predictor(tmp_path_factory.mktemp("model"), device="cpu")


@pytest.fixture
def beyond(monkeypatch):
    """The pixels of any images are more than memory should hold."""
    monkeypatch.setattr(prepare, "default_budget", lambda: 0)


@pytest.fixture
def decodes(monkeypatch):
    counts = Counter()
    load = decoding.load

    def counted(data, path, **how):
        counts[path] += 1
        return load(data, path, **how)

    monkeypatch.setattr(decoding, "load", counted)
    return counts


def test_images_beyond_the_budget_are_decoded_once_and_predicted_to_the_same_bits(folder, stored, decodes, monkeypatch):
    table, stores = from_paths([str(folder)]), []
    monkeypatch.setattr(module, "ProgressLoader", lambda feed, given: stores.append(feed.store) or feed)
    held = stored.predictions(table)
    decodes.clear()
    monkeypatch.setattr(prepare, "default_budget", lambda: 0)
    streamed = stored.predictions(table)
    assert [type(store) for store in stores] == [RawStore, StreamedStore]
    assert set(decodes.values()) == {1}
    assert len(decodes) == COUNT
    assert streamed.path == held.path
    np.testing.assert_array_equal(streamed.logits_NK, held.logits_NK)


def test_the_damage_that_is_met_is_listed(folder, stored, beyond):
    for k in (5, 6, 10):
        (folder / f"{k:02}.png").write_bytes(b"no image")
    with pytest.raises(DamagedImages, match="--skip-damaged") as caught:
        stored.predictions(from_paths([str(folder)]))
    assert caught.value.indices.tolist() == [5, 6], "of the batch that had some, in order; not of what comes after"


def test_damaged_images_are_left_out_of_what_is_predicted(folder, stored, beyond, caplog):
    whole = stored.predictions(from_paths([str(folder)]))
    for k in (1, 6):
        (folder / f"{k:02}.png").write_bytes(b"no image")
    table = from_paths([str(folder)])
    (folder / "09.png").unlink()  # since the folder was listed
    said = stored.predictions(table, skip_damaged=True)
    kept = [row for row in range(COUNT) if row not in (1, 6, 9)]
    assert said.path == tuple(whole.path[row] for row in kept)
    assert said.content == tuple(whole.content[row] for row in kept)
    # Batches of other sizes are summed in another order.
    np.testing.assert_allclose(said.logits_NK, whole.logits_NK[kept], rtol=1e-4, atol=1e-4)
    assert "3 damaged images left out" in caplog.text


def test_nothing_but_damage_is_an_error_whoever_leaves_it_out(folder, stored, beyond):
    for file in folder.iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(LoupeError, match="all 11 images are damaged"):
        stored.predictions(from_paths([str(folder)]), skip_damaged=True)


class Reversed:
    """Stand-in engine: the mean of each image's input for the second class, its negative for the first."""

    name = "stand-in"

    def __init__(self, model, compute):
        self.seen = []

    def run(self, inputs):
        for x_BCHW in inputs:
            self.seen.append(tuple(x_BCHW.shape))
            mean_B = x_BCHW.mean(dim=(1, 2, 3)).numpy()
            yield np.stack([-mean_B, mean_B], axis=1)


def test_another_engine_computes_the_logits_of_the_same_preprocessed_images(folder, stored):
    table = from_paths([str(folder)])
    other = Predictor(folder, device="cpu", engine=Reversed)
    said = other.predictions(table)
    assert said.path == stored.predictions(table).path
    assert other.engine.seen == [(4, 3, 8, 8), (4, 3, 8, 8), (3, 3, 8, 8)]
    images = prepare.load_images(Dataset(None, table), other.model.preprocessing, cache=None)
    pixels_NHWC = np.asarray(images.store.pixels, np.float64) / 255
    np.testing.assert_allclose(said.logits_NK[:, 1], pixels_NHWC.mean(axis=(1, 2, 3)), rtol=1e-5)
    assert other.predict([str(folder / "00.png")]) == ["b"]


def test_openvino_predicts_as_pytorch_does(folder, stored):
    pytest.importorskip("openvino")

    def openvino(model, compute):
        return OpenVinoEngine(nn.Sequential(model.trunk, model.head), compute, model.preprocessing.size)

    table = from_paths([str(folder)])
    said = Predictor(folder, device="cpu", engine=openvino).predictions(table)
    np.testing.assert_allclose(said.logits_NK, stored.predictions(table).logits_NK, rtol=1e-4, atol=1e-5)
