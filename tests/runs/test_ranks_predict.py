"""Predictions over ranks: the same on every rank as those of one process, to the bit, and damage is met alike."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rank_processes
from loupe.config.network import CnnSpec, ConvBlock
from loupe.config.recipe import Preprocessing
from loupe.data.dataset import Dataset
from loupe.data.pixels import prepare, shared_stream
from loupe.data.pixels.store import DamagedImages
from loupe.data.sources.folders import from_paths
from loupe.models import bundle, torch_network
from loupe.models.cnn import cnn
from loupe.runs.predictor import Predictor

COUNT = 23
DAMAGED = (3, 4, 11, 22)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    spec, folder = CnnSpec(name="tiny", blocks=(ConvBlock(filters=(7,)),)), tmp_path_factory.mktemp("model")
    bundle.save(folder, cnn(spec, Preprocessing(size_px=8, load_px=8), ("a", "b"), seed=0), spec, "fp32")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("photos")
    for k in range(COUNT):
        Image.fromarray(rng.integers(0, 256, (12, 10, 3), np.uint8)).save(folder / f"{k:02}.png")
    return folder


@pytest.fixture(scope="module")
def some_damaged(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    for k, path in enumerate(sorted(photos.iterdir())):
        (folder / path.name).write_bytes(b"broken" if k in DAMAGED else path.read_bytes())
    return folder


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(torch_network, "batch_size", lambda size: 4)
    torch.set_num_threads(1)  # as in every rank


def in_rank(joined, model, *folders):
    """Called in each rank by the test below."""
    torch_network.batch_size = lambda size: 4
    shared_stream.ROUND_IMAGES = 8
    return predicted(model, *folders)


def predicted(model, photos, damaged):
    """Everything that is predicted of two folders."""
    predictor = Predictor(Path(model), device="cpu")
    table = from_paths([photos])
    images = prepare.load_images(Dataset(None, table), predictor.preprocessing, cache=None)
    held = predictor._predict(images, np.arange(COUNT), images.table.labels)
    streamed, others = predictor.predictions(table), predictor.predictions(from_paths([damaged]), skip_damaged=True)
    try:
        predictor.predict(damaged)
        reason = None
    except DamagedImages as error:
        reason = [str(error), error.indices.tolist()]
    found = [[*part.path, *part.content, part.logits_NK.tolist()] for part in (held, streamed, others)]
    return [*found, predictor.predict(photos), predictor.predict_proba(photos).tolist(), reason]


@pytest.mark.slow
def test_every_rank_has_the_predictions_of_one_process(model, photos, some_damaged, small_batches):
    given = [str(model), str(photos), str(some_damaged)]
    alone = predicted(*given)
    assert alone[0] == alone[1]
    assert alone[-1][1] == list(DAMAGED)
    assert rank_processes.results(3, "runs.test_ranks_predict:in_rank", *given) == [alone] * 3
