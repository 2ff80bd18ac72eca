"""Batches of an evaluation over ranks: those of one process, each image once, and the same bits."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rank_processes
from loupe.config.network import CnnSpec, ConvBlock
from loupe.config.recipe import Preprocessing
from loupe.data.pixels.batches import BatchLoader
from loupe.data.pixels.read_ahead import cut
from loupe.devices import Compute
from loupe.evaluate import inference
from loupe.evaluate.engine_predictions import predict_rows
from loupe.evaluate.shared_batches import SharedBatches
from loupe.models.cnn import cnn
from loupe.ranks import Ranks

CLASSES = ("a", "b", "c")
BATCH = 4


@given(images=st.integers(0, 40), batch_images=st.integers(1, 9), count=st.integers(1, 5))
def test_ranks_have_the_batches_of_one_process_and_each_image_once(images, batch_images, count):
    row_N = np.random.default_rng(images).permutation(images)
    whole = [batch_B.tolist() for batch_B in cut(row_N, batch_images)]
    shares = [SharedBatches(row_N, batch_images, Ranks(rank, count)) for rank in range(count)]
    batches = [[batch_B.tolist() for batch_B in share.mine] for share in shares]
    assert [batches[number % count][number // count] for number in range(len(whole))] == whole
    assert sum(map(len, batches)) == len(whole)
    for share, mine in zip(shares, batches, strict=True):
        assert [batch_B.tolist() for batch_B in cut(share.mine_M, batch_images)] == mine
    assert sum(shares[0].round_images(number) for number in range(len(shares[0].mine))) == images


def test_one_process_has_all_rows_in_order():
    batches = SharedBatches(np.array([5, 3, 4]), 2, Ranks())
    logits_MK = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_array_equal(batches.merged(logits_MK, everywhere=False), logits_MK)
    assert batches.mine_M.tolist() == [5, 3, 4]


class CountingStore:
    """Store of random pixels that counts the rows that are read."""

    def __init__(self, images: int) -> None:
        self._pixels = np.random.default_rng(0).integers(0, 256, (images, 12, 12, 3), np.uint8)
        self.reads = Counter()

    def __len__(self) -> int:
        return len(self._pixels)

    def read(self, indices):
        self.reads.update(indices.tolist())
        return self._pixels[indices]


class Engine:
    """Engine of the same network, from decoded pixels."""

    name, batch_images, in_flight = "test", BATCH, 1

    def __init__(self, model) -> None:
        self._model = model

    def run(self, pixels):
        for x_BHWC in pixels:
            with torch.inference_mode():
                x_BCHW = torch.from_numpy(x_BHWC).permute(0, 3, 1, 2)[:, :, 2:10, 2:10] / 255
                yield self._model(x_BCHW).numpy()


def in_rank(joined, *images):
    """Called in each rank by the test below."""
    inference.batch_size = lambda size: BATCH
    return [evaluated(joined, count) for count in images]


def evaluated(joined, images):
    """Logits, scores and rows read, of two ways to evaluate."""
    torch.set_num_threads(1)  # as in every rank
    spec = CnnSpec(name="tiny", blocks=(ConvBlock(filters=(7,)),))
    model = cnn(spec, Preprocessing(size_px=8, load_px=12), CLASSES, seed=0)
    label_N = np.arange(images) % 3
    store = CountingStore(images)
    loader = BatchLoader(store, label_N, torch.device("cpu"))
    row_N = np.random.default_rng(1).permutation(images)
    logits_NK = inference.logits(model, loader, row_N, Compute(torch.device("cpu"), "fp32"), ranks=joined)
    scores = joined.from_main(lambda: inference.scores(logits_NK, label_N[row_N]))
    assert model.training
    table = SimpleImages(images, store)
    engine = predict_rows(Engine(model.eval()), table, row_N, label_N, CLASSES, ranks=joined)
    return [logits_NK.tolist(), scores, engine.logits_NK.tolist(), engine.path, sorted(store.reads.elements())]


class SimpleImages:
    """Images with names and a store, without files."""

    def __init__(self, images: int, store) -> None:
        self.table, self.store = self, store
        self.paths = self.content = tuple(f"{number}.png" for number in range(images))


@pytest.mark.slow
def test_ranks_evaluate_each_image_once_to_the_last_digit(monkeypatch):
    monkeypatch.setattr(inference, "batch_size", lambda size: BATCH)
    images = (23, 5, 1, 0)
    alone = [evaluated(Ranks(), count) for count in images]
    for count in (2, 3):
        of_rank = rank_processes.results(count, "evaluate.test_shared_batches:in_rank", *images)
        for number, (logits, scores, of_engine, path, read) in enumerate(alone):
            found = [rank[number] for rank in of_rank]
            assert [rank[0] for rank in found] == [logits, *[[]] * (count - 1)]
            for rank in found:
                assert rank[1:4] == [scores, of_engine, list(path)]
            assert sorted(row for rank in found for row in rank[4]) == read
            assert Counter(read) == dict.fromkeys(range(images[number]), 2), "once in each of two evaluations"
