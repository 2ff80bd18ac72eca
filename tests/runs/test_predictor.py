"""Many images are decoded as they are classified: once, to the same bits, and damage is met on the way."""

import weakref
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from torch import nn

from loupe.config.network import CnnSpec
from loupe.config.recipe import Preprocessing
from loupe.data.dataset import Dataset
from loupe.data.pixels import decoding, prepare
from loupe.data.pixels import stream as stream_module
from loupe.data.pixels.store import DamagedImages
from loupe.data.sources.folders import from_paths
from loupe.data.sources.inference_inputs import table_of
from loupe.errors import LoupeError
from loupe.models import bundle
from loupe.models.cnn import cnn
from loupe.models.engine import OpenVinoEngine
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
    """A classifier in a folder; batches are small."""
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path_factory.mktemp("cache")))
    spec, folder = CnnSpec(name="tiny", blocks=()), tmp_path_factory.mktemp("model")
    network = cnn(spec, Preprocessing(size_px=8, load_px=8), ("a", "b"), seed=0)
    bundle.save(folder, network, spec, "fp32")
    monkeypatch.setattr("loupe.models.torch_network.batch_size", lambda _: BATCH)
    return Predictor(folder, device="cpu")


@pytest.fixture
def decodes(monkeypatch):
    counts = Counter()
    load = decoding.load

    def counted(data, path, **how):
        counts[path] += 1
        return load(data, path, **how)

    monkeypatch.setattr(decoding, "load", counted)
    return counts


def test_images_are_decoded_once_and_predicted_to_the_bits_of_an_evaluation(folder, stored, decodes, monkeypatch):
    table = from_paths([str(folder)])
    images = prepare.load_images(Dataset(None, table), stored.preprocessing, cache=None)
    held = stored._predict(images, np.arange(COUNT), images.table.labels)
    decodes.clear()
    for chunk_images in (1, 3, 256):
        monkeypatch.setattr(decoding, "CHUNK_IMAGES", chunk_images)
        streamed = stored.predictions(table)
        assert (streamed.path, streamed.content) == (held.path, held.content)
        np.testing.assert_array_equal(streamed.logits_NK, held.logits_NK)
    assert set(decodes.values()) == {3}
    assert len(decodes) == COUNT


@pytest.mark.parametrize("images", [200, 400])
def test_memory_is_that_of_a_few_batches_whatever_the_number_of_images(stored, monkeypatch, images):
    alive, most = weakref.WeakSet(), []
    decode, join = stream_module.decode_and_hash, stream_module._joined

    def noted(made):
        alive.add(made)
        most.append(len(alive))
        return made

    monkeypatch.setattr(stream_module, "decode_and_hash", lambda files, **how: noted(decode(files, **how)))
    monkeypatch.setattr(stream_module, "_joined", lambda pieces: noted(join(pieces)))
    monkeypatch.setattr(decoding, "CHUNK_IMAGES", 2)
    table = table_of(np.zeros((images, 8, 8, 3), np.uint8))
    assert sum(map(len, stored.stream(table))) == images
    assert max(most) <= 12, "chunks that are decoded ahead, those of a batch, and batches in the engine"


def test_damage_stops_the_prediction_and_all_of_it_is_listed(folder, stored):
    for k in (5, 6, 10):
        (folder / f"{k:02}.png").write_bytes(b"no image")
    with pytest.raises(DamagedImages, match="--skip-damaged") as caught:
        stored.predictions(from_paths([str(folder)]))
    assert caught.value.indices.tolist() == [5, 6, 10]


def test_damaged_images_are_left_out_of_what_is_predicted(folder, stored, caplog):
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


def test_nothing_but_damage_is_an_error_whoever_leaves_it_out(folder, stored):
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
    other = Predictor(stored._folder, device="cpu", engine=Reversed)
    said = other.predictions(table)
    assert said.path == stored.predictions(table).path
    assert other.engine.engine.seen == [(4, 3, 8, 8), (4, 3, 8, 8), (3, 3, 8, 8)]
    images = prepare.load_images(Dataset(None, table), other.model.preprocessing, cache=None)
    pixels_NHWC = np.asarray(images.store.pixels, np.float64) / 255
    np.testing.assert_allclose(said.logits_NK[:, 1], pixels_NHWC.mean(axis=(1, 2, 3)), rtol=1e-5)
    assert other.predict([str(folder / "00.png")]) == ["b"]


def test_openvino_predicts_as_pytorch_does(folder, stored):
    pytest.importorskip("openvino")

    def openvino(model, compute):
        return OpenVinoEngine(nn.Sequential(model.trunk, model.head), compute, model.preprocessing.size)

    table = from_paths([str(folder)])
    said = Predictor(stored._folder, device="cpu", engine=openvino).predictions(table)
    np.testing.assert_allclose(said.logits_NK, stored.predictions(table).logits_NK, rtol=1e-4, atol=1e-5)
