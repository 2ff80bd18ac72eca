"""Images decoded over ranks: the batches of one process, each on one rank, whatever is damaged."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import picture
from loupe.config.recipe import Preprocessing
from loupe.data.pixels import decoding, shared_stream
from loupe.data.pixels.prepare import encoded
from loupe.data.pixels.stream import in_batches, stream
from loupe.data.sources.inference_inputs import table_of

PREPROCESSING = Preprocessing(size_px=4, load_px=4)


class ThreadRanks:
    """Ranks that are threads of this process."""

    alone = False

    def __init__(self, rank, count, barrier, values):
        self.rank, self.count, self._barrier, self._values = rank, count, barrier, values

    def gather(self, value):
        self._values[self.rank] = value
        self._barrier.wait(10)
        values = list(self._values)
        self._barrier.wait(10)
        return values

    def together(self, compute):
        return compute()


def in_threads(count, function):
    barrier, values = threading.Barrier(count), [None] * count
    with ThreadPoolExecutor(count) as pool:
        ranks = [ThreadRanks(rank, count, barrier, values) for rank in range(count)]
        return list(pool.map(function, ranks))


def images_of(number, damaged):
    return encoded(table_of([b"broken" if k in damaged else picture(k % 250) for k in range(number)]), PREPROCESSING)


def whole(images, batch_images):
    """Batches of one process, and its damaged images."""
    damaged = []

    def chunks():
        for chunk in stream(images, ""):
            damaged.extend(damage.index for damage in chunk.damaged)
            if len(chunk):
                yield chunk

    return list(in_batches(chunks(), batch_images)), damaged


@settings(deadline=None, max_examples=25)
@given(
    number=st.integers(1, 40),
    damaged=st.sets(st.integers(0, 39), max_size=12),
    batch_images=st.integers(1, 5),
    count=st.integers(2, 4),
    round_images=st.sampled_from([1, 8]),
)
def test_ranks_have_the_batches_of_one_process(number, damaged, batch_images, count, round_images):
    images = images_of(number, damaged)
    batches, broken = whole(images, batch_images)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_stream, "ROUND_IMAGES", round_images)
        patch.setattr(decoding, "CHUNK_IMAGES", 3)
        shared = in_threads(
            count,
            lambda ranks: list(shared_stream.shared_stream(images, batch_images, ranks, "")),
        )
    assert len({len(rounds) for rounds in shared}) == 1
    found = []
    for rounds in zip(*shared, strict=True):
        assert all(one.rows == rounds[0].rows and one.rank == rounds[0].rank for one in rounds)
        mine = [iter(one.mine) for one in rounds]
        found += [next(mine[rank]) for rank in rounds[0].rank]
        assert [next(rest, None) for rest in mine] == [None] * count
    assert [batch.row_B.tolist() for batch in found] == [batch.row_B.tolist() for batch in batches]
    for batch, wanted in zip(found, batches, strict=True):
        assert batch.content == wanted.content
        np.testing.assert_array_equal(batch.pixels, wanted.pixels)
    assert [damage.index for one in shared[0] for damage in one.damaged] == broken


def test_nothing_is_decoded_twice_where_no_image_is_damaged(monkeypatch):
    monkeypatch.setattr(shared_stream, "ROUND_IMAGES", 8)
    images, decoded, lock = images_of(61, set()), [], threading.Lock()
    decode = shared_stream.decode_and_hash

    def counted(files, **how):
        with lock:
            decoded.extend(file.index for file in files)
        return decode(files, **how)

    monkeypatch.setattr(shared_stream, "decode_and_hash", counted)
    shared = in_threads(3, lambda ranks: list(shared_stream.shared_stream(images, 4, ranks, "")))
    assert sorted(decoded) == list(range(61))
    held = [sum(len(batch) for one in rounds for batch in one.mine) for rounds in shared]
    assert max(held) - min(held) <= 5


def test_runs_of_the_ranks_differ_by_a_batch():
    batches = [np.arange(4 * k, 4 * k + 4) for k in range(5)]
    assert [len(run) for run in shared_stream._in_runs(batches, 3)] == [8, 4, 8]
    assert [len(run) for run in shared_stream._in_runs(batches[:1], 3)] in ([4, 0, 0], [0, 4, 0], [0, 0, 4])
