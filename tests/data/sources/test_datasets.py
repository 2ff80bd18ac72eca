"""Every named data set keeps the same contract; those that are downloaded are fetched from a server of our own."""

import gzip
import hashlib
import io
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from builders import cifar_files, pack
from loupe.data.sources import datasets
from loupe.data.sources.download import Source
from loupe.data.sources.open import open_table
from loupe.errors import DataError, LoupeError


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A local server with small archives in place of the published ones, and an empty cache; the folder it serves."""
    monkeypatch.delenv("HF_HUB_OFFLINE")  # tests are offline; these have a server of their own
    folder = tmp_path / "server"
    folder.mkdir()
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: Silent(*args, directory=str(folder))) as server:
        for kind in (10, 100):
            file = pack(folder / f"cifar-{kind}-python.tar.gz", cifar_files(kind)[0])
            source = Source(
                url=f"http://127.0.0.1:{server.server_port}/{file.name}",
                checksum=f"md5:{hashlib.md5(file.read_bytes()).hexdigest()}",
                remedy="Give the file itself.",
            )
            monkeypatch.setattr(datasets, f"CIFAR{kind}", source)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_the_contract_of_every_data_set(name, published):
    table = open_table(name)
    assert table.name == name
    assert len(set(table.paths)) == len(table)
    assert set(table.labels) == set(range(len(table.classes))) or name == "cifar100", "every class has images"
    assert set(table.splits) in ({None}, {"train", "test"})
    image = Image.open(io.BytesIO(table.encoded(len(table) - 1)))
    assert image.mode == "RGB"
    assert table.notes and datasets.DATASETS[name].description
    again = open_table(name)
    assert again.rows.equals(table.rows)


def test_digits_are_those_of_scikit_learn():
    table = open_table("digits")
    bunch = load_digits()
    assert (len(table), table.classes) == (1797, tuple("0123456789"))
    assert np.array_equal(table.labels, bunch.target)
    for i in (0, 500, 1796):
        pixels = np.asarray(Image.open(io.BytesIO(table.encoded(i))))
        assert np.array_equal(pixels[..., 0], pixels[..., 2])
        assert np.abs(pixels[..., 0] / 255 - bunch.images[i] / 16).max() < 0.5 / 255 + 1e-12
        assert pixels.max() == round(255 * bunch.images[i].max() / 16)


def test_an_archive_is_fetched_once_and_its_pixels_are_right(published, tmp_path):
    _, images, labels = cifar_files(10)
    table = open_table("cifar10")
    for file in published.iterdir():
        file.unlink()
    again = open_table("cifar10")
    assert table.labels.tolist() == again.labels.tolist() == labels
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(again.encoded(3)))), images[3])
    assert (tmp_path / "cache" / "datasets" / "cifar-10-python.tar.gz").is_file()


@pytest.mark.parametrize("damage", ["zeros", "truncated", "text", "pixel"])
def test_an_archive_that_was_damaged_in_the_cache_is_fetched_again(published, tmp_path, monkeypatch, caplog, damage):
    served = published / "cifar-10-python.tar.gz"
    served.write_bytes(gzip.compress(gzip.decompress(served.read_bytes()), compresslevel=0))
    source = replace(datasets.CIFAR10, checksum=f"md5:{hashlib.md5(served.read_bytes()).hexdigest()}")
    monkeypatch.setattr(datasets, "CIFAR10", source)
    table = open_table("cifar10")
    kept = tmp_path / "cache/datasets/cifar-10-python.tar.gz"
    data = bytearray(kept.read_bytes())
    assert data == served.read_bytes()
    if damage == "pixel":  # of an archive that is not deflated, so that only its checksum tells
        data[data.index(b"data_batch_1") + 1024] ^= 1
    kept.write_bytes({"zeros": bytes(len(data)), "truncated": data[:-100], "text": b"{}"}.get(damage, data))
    assert open_table("cifar10").rows.equals(table.rows)
    assert f"{kept} is damaged" in caplog.text and kept.read_bytes() == served.read_bytes()


def test_a_damaged_archive_without_a_network_is_an_error(published, tmp_path, monkeypatch):
    open_table("cifar10")
    (tmp_path / "cache/datasets/cifar-10-python.tar.gz").write_bytes(b"")
    monkeypatch.setenv("LOUPE_OFFLINE", "1")
    with pytest.raises(DataError, match="Give the file itself"):
        open_table("cifar10")


def test_what_cannot_be_had_says_how_to_give_the_file(published):
    (published / "cifar-10-python.tar.gz").unlink()
    with pytest.raises(LoupeError, match=r"the server returned 404 .*Give the file itself"):
        open_table("cifar10")
    (published / "cifar-100-python.tar.gz").write_bytes(b"something else")
    with pytest.raises(LoupeError, match="wrong checksum"):
        open_table("cifar100")


def test_the_published_sources_are_the_ones_of_the_university_of_toronto():
    assert datasets.CIFAR10.url == "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    assert datasets.CIFAR10.checksum == "md5:c58f30108f718f92721af3b95e74349a"
    assert datasets.CIFAR100.url == "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
    assert datasets.CIFAR100.checksum == "md5:eb9058c3a382ffc7106e4002c42a8d85"
    assert "loupe train cifar-10-python.tar.gz" in datasets.CIFAR10.remedy


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(LoupeError, match=r"unknown data set 'cifar_10'. Did you mean cifar10"):
        datasets.load("cifar_10")


def test_digits_are_the_same_where_the_file_of_scikit_learn_is_not_found(monkeypatch):
    table = datasets.digits()
    monkeypatch.setattr(datasets, "find_spec", lambda name: None)
    assert datasets.digits().rows.equals(table.rows)
