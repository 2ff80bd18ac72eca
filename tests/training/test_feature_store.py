"""Features of single images: kept by content, computed once, and the same bits in any company."""

import logging
import os
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import child_processes
from loupe.augment.pipeline import evaluation_view
from loupe.config.network import BackboneSpec
from loupe.config.recipe import Preprocessing
from loupe.data.dataset import Dataset
from loupe.data.pixels.prepare import load_images, undecoded_images
from loupe.data.pixels.store import EncodedStore
from loupe.data.sources.arrays import from_arrays
from loupe.errors import DivergedError, LoupeError
from loupe.models.build import build
from loupe.training import features as module
from loupe.training.feature_store import FeatureStore
from loupe.training.features import BATCH_IMAGES, VIEWS, FeatureExtractor, features

CPU = torch.device("cpu")
NETWORK = BackboneSpec(backbone="test_resnet", weights="none")
SIZE = Preprocessing(size_px=32, load_px=36, resize="crop", interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)
IMAGES = 2 * BATCH_IMAGES + 1  # the last batch has one image


def pictures(count: int, seed: int = 0) -> Dataset:
    """Images of smooth colours, so that resizing leaves their differences."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    return Dataset(None, from_arrays(coarse.repeat(8, axis=1).repeat(8, axis=2), np.arange(count) % 2))


def opened(dataset: Dataset, rows=None):
    table = dataset.table if rows is None else dataset.table.select(np.asarray(rows))
    return undecoded_images(Dataset(None, table), SIZE)


def of(folder: Path, images, **given):
    return features(NETWORK, SIZE, images, device=CPU, folder=folder, **given)


@pytest.fixture
def computed(monkeypatch):
    """Number of images that went through the backbone."""
    counts: Counter[str] = Counter()
    compute = FeatureExtractor._computed

    def counted(self, images, rows_M, view):
        counts["images"] += len(rows_M)
        return compute(self, images, rows_M, view)

    monkeypatch.setattr(FeatureExtractor, "_computed", counted)
    return counts


@pytest.fixture(params=["torch", "openvino"])
def engine(request, monkeypatch):
    """Either engine, in the precision that it chooses here."""
    monkeypatch.setenv("LOUPE_CACHE", str(request.getfixturevalue("tmp_path") / "cache"))
    if request.param == "openvino":
        pytest.importorskip("openvino")
    else:
        monkeypatch.setitem(__import__("sys").modules, "openvino", None)


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_bits_do_not_depend_on_the_other_images(tmp_path):
    """Each image alone, reversed, in a subset and beside copies: in empty stores, so that all are computed."""
    dataset = pictures(IMAGES)
    whole_NC = of(tmp_path / "whole", opened(dataset))
    assert whole_NC.dtype == np.float32
    assert len(np.unique(whole_NC, axis=0)) == IMAGES
    for number, rows in enumerate(([IMAGES - 1], range(IMAGES)[::-1], range(0, IMAGES, 3), [4, 4, 9, 4, 2])):
        part_MC = of(tmp_path / f"{number}", opened(dataset, rows))
        np.testing.assert_array_equal(part_MC, whole_NC[list(rows)])


@pytest.mark.usefixtures("bare")
def test_features_are_those_of_the_network(tmp_path):
    """The reference is one pass of PyTorch over each image by itself."""
    images = opened(pictures(BATCH_IMAGES + 1))
    model = build(NETWORK, SIZE, ("a", "b"), seed=0).eval()
    with torch.inference_mode():
        x_NCHW = torch.from_numpy(images.store.read(np.arange(len(images.table)))).permute(0, 3, 1, 2)
        view_NCHW = evaluation_view(x_NCHW, SIZE)
        for view, transform in VIEWS.items():
            each = [model.head[:-1](model.trunk(transform(view_NCHW[i : i + 1]))) for i in range(len(x_NCHW))]
            np.testing.assert_allclose(of(tmp_path, images, view=view), torch.cat(each).numpy(), rtol=1e-4, atol=1e-5)
    mirrored = images.store.read(np.arange(len(images.table)))[:, :, ::-1]
    table = from_arrays(np.ascontiguousarray(mirrored), images.table.labels)
    plain_NC = of(tmp_path, undecoded_images(Dataset(None, table), SIZE.model_copy(update={"load_px": 36})))
    np.testing.assert_allclose(of(tmp_path, images, view="mirrored"), plain_NC, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("bare")
def test_only_missing_images_are_read_and_computed(tmp_path, computed, monkeypatch):
    dataset, read = pictures(IMAGES), Counter()
    pixels = EncodedStore.read

    def counted(self, indices):
        read["images"] += len(indices)
        return pixels(self, indices)

    monkeypatch.setattr(EncodedStore, "read", counted)
    first_NC = of(tmp_path, opened(dataset, range(20)))
    assert (computed["images"], read["images"]) == (20, 20)
    whole_NC = of(tmp_path, opened(dataset))
    assert computed["images"] == IMAGES
    of(tmp_path, opened(dataset, [30, 7, 3]))
    np.testing.assert_array_equal(of(tmp_path, opened(dataset), rows_N=np.array([5, 2, 5])), whole_NC[[5, 2, 5]])
    np.testing.assert_array_equal(whole_NC[:20], first_NC)
    assert computed["images"] == IMAGES, "none is computed again"
    assert read["images"] in (IMAGES, IMAGES + 1), "none is read again; a last batch of one image is filled by a copy"
    of(tmp_path, opened(dataset, [1]), view="mirrored")
    of(tmp_path, opened(pictures(1, seed=5)))
    assert computed["images"] == IMAGES + 2, "another view, another image"
    assert of(tmp_path, opened(dataset), rows_N=np.array([], np.int64)).shape == (0, whole_NC.shape[1])


@pytest.mark.usefixtures("bare")
def test_weights_preprocessing_and_network_have_stores_of_their_own(tmp_path, computed):
    images = opened(pictures(3))
    of(tmp_path, images)
    wider = SIZE.model_copy(update={"mean": (0.4,) * 3})
    features(NETWORK, wider, images, device=CPU, folder=tmp_path)
    extractor = FeatureExtractor(NETWORK, SIZE, CPU, tmp_path)
    with torch.no_grad():
        next(extractor.model.trunk.parameters()).add_(1e-3)
    extractor.features(images)
    assert computed["images"] == 9
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 3


@pytest.mark.usefixtures("bare")
def test_cached_pixels_give_the_features_of_decoded_ones(tmp_path):
    dataset = pictures(5)
    np.testing.assert_array_equal(
        of(tmp_path / "a", load_images(dataset, SIZE, cache=None)), of(tmp_path / "b", opened(dataset))
    )


@pytest.mark.usefixtures("bare")
def test_an_estimate_times_a_few_batches_and_keeps_them(tmp_path, computed):
    images = opened(pictures(5 * BATCH_IMAGES))
    extractor = FeatureExtractor(NETWORK, SIZE, CPU, tmp_path)
    found = extractor.estimate(images)
    assert computed["images"] == 3 * BATCH_IMAGES
    assert found.missing_images == 2 * BATCH_IMAGES
    assert found.seconds == found.missing_images * found.seconds_per_image > 0
    extractor.features(images)
    assert computed["images"] == 5 * BATCH_IMAGES
    assert extractor.estimate(images).seconds == 0
    assert extractor.estimate(images, np.array([], np.int64)).missing_images == 0


@pytest.mark.usefixtures("bare")
def test_an_unknown_view_and_bad_weights_are_refused(tmp_path):
    with pytest.raises(LoupeError, match="Did you mean mirrored"):
        of(tmp_path, opened(pictures(2)), view="mirored")
    extractor = FeatureExtractor(NETWORK, SIZE, CPU, tmp_path)
    with torch.no_grad():
        next(extractor.model.trunk.parameters()).fill_(torch.nan)
    with pytest.raises(DivergedError):
        extractor.features(opened(pictures(2)))
    assert not any(path.stat().st_size for path in tmp_path.rglob("*.bin"))


@pytest.mark.usefixtures("bare")
def test_precision_is_settled_once_for_a_network(tmp_path, monkeypatch):
    """The images of a later call, and the number of threads, have no part in it."""
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))
    asked = []
    monkeypatch.setattr(module, "engine_gains_from_bf16", lambda device: True)
    monkeypatch.setattr(module, "resolve_frozen", lambda *_, **given: (asked.append(given["rows_N"]), ("fp32", ""))[1])
    of(tmp_path, opened(pictures(3)))
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        of(tmp_path, opened(pictures(4, seed=1)))
    finally:
        torch.set_num_threads(threads)
    assert [len(rows_N) for rows_N in asked] == [3]


# The store by itself: features that are known, and a file that is damaged.
def digest(number: int) -> str:
    return f"{number:064x}"


def known(number: int) -> np.ndarray:
    return np.array([number, -number, number / 3], np.float32)


class Made:
    """Features that are computed in batches of two, and which ones were."""

    def __init__(self, numbers) -> None:
        self.numbers, self.asked = list(numbers), []

    def __call__(self, positions):
        self.asked += [self.numbers[position] for position in positions]
        for start in range(0, len(positions), 2):
            yield np.stack([known(self.numbers[position]) for position in positions[start : start + 2]])


def complete(store: FeatureStore, numbers) -> list[int]:
    """Ask for the features of images with these numbers; return those that were computed."""
    made = Made(numbers)
    found = store.complete([digest(number) for number in numbers], made)
    np.testing.assert_array_equal(found, np.stack([known(number) for number in numbers]))
    return made.asked


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path, "key", "plain", 3)


def test_copies_are_computed_once(store):
    assert complete(store, [3, 1, 3, 3, 2]) == [3, 1, 2]
    assert complete(store, [2, 5, 3, 5]) == [5]
    assert complete(FeatureStore(store.folder, "key", "mirrored", 3), [2]) == [2]


@pytest.mark.parametrize("cut", [1, 35, 47])
def test_an_incomplete_record_is_cut_off(store, cut):
    complete(store, range(5))
    size = store.path.stat().st_size
    os.truncate(store.path, size - cut)
    assert complete(store, range(6)) == [4, 5]
    assert store.path.stat().st_size == size // 5 * 6
    assert complete(store, range(6)) == []


@pytest.mark.parametrize("place", [0, 40, 46])
def test_a_damaged_record_is_computed_again(store, place, caplog):
    """A changed byte in the hash of the second image, in its features and in its checksum."""
    complete(store, range(5))
    data = bytearray(store.path.read_bytes())
    data[len(data) // 5 + place] ^= 4
    store.path.write_bytes(data)
    assert complete(store, range(5)) == [1]
    assert complete(store, range(5)) == []
    assert ("damaged" in caplog.text) == (place > 0)


def test_foreign_bytes_are_no_features(store):
    store.path.parent.mkdir()
    store.path.write_bytes(np.random.default_rng(0).bytes(1000))
    assert complete(store, range(4)) == [0, 1, 2, 3]
    assert complete(store, range(4)) == []


def test_a_removed_store_is_begun_anew(store):
    complete(store, range(3))
    store.path.unlink()
    store.path.parent.rmdir()
    assert complete(store, range(3)) == [0, 1, 2]


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert complete(FeatureStore(tmp_path / "file", "key", "plain", 3), [1, 1, 2]) == [1, 2]
    assert "LOUPE_CACHE" in caplog.text


def test_a_full_disk_keeps_what_it_has(store, monkeypatch, caplog):
    complete(store, range(2))

    def full(file, data):
        file.write(data[:10])
        raise OSError(28, "No space left")

    monkeypatch.setattr("loupe.training.feature_store._write", full)
    assert complete(store, range(5)) == [2, 3, 4]
    assert "No space left" in caplog.text
    monkeypatch.undo()
    assert complete(store, range(5)) == [2, 3, 4]


APPEND = """
import sys, time
from pathlib import Path
import numpy as np
from loupe.training.feature_store import FeatureStore

folder, first, last, pause = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
numbers, made = list(range(first, last)), []

def compute(positions):
    made.extend(numbers[p] for p in positions)
    for p in positions:
        print("made", numbers[p], flush=True)
        time.sleep(pause)
        yield np.array([[numbers[p], -numbers[p], numbers[p] / 3]], np.float32)

store = FeatureStore(folder, "key", "plain", 3)
print("asking", flush=True)
store.complete([f"{number:064x}" for number in numbers], compute)
"""


@pytest.mark.slow
def test_two_processes_compute_each_image_once(store):
    """The second one waits, and computes what the first one did not need."""
    children = [child_processes.start(APPEND, store.folder, *span, 0.02) for span in ((0, 30), (10, 40))]
    said = [child.communicate(timeout=120)[0].split() for child in children]
    assert [child.returncode for child in children] == [0, 0]
    made = Counter(word for words in said for word in words if word.isdigit())
    assert sorted(map(int, made)) == list(range(40))
    assert set(made.values()) == {1}
    assert complete(store, range(40)) == []


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_a_killed_process_leaves_what_it_computed(store):
    child = child_processes.start(APPEND, store.folder, 0, 1000, 0.01)
    while child.stdout.readline().split() != ["made", "12"]:
        assert child.poll() is None
    child.kill()
    child.communicate(timeout=120)
    left = complete(store, range(20))
    assert left in ([*range(12, 20)], [*range(11, 20)])
    assert complete(store, range(20)) == []
