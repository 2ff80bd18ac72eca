"""Named data sets. To add one, write a function that returns its ImageTable, and add it to DATASETS."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from loupe.cache import cache_folder
from loupe.data.sources import archives
from loupe.data.sources.arrays import from_arrays
from loupe.data.sources.download import Source, download
from loupe.data.table import ImageTable
from loupe.errors import DataError, unknown_name
from loupe.log import logger


@dataclass(frozen=True)
class NamedDataset:
    """Named data set: loader, description and default recipe (None: the recipe for its image size)."""

    load: Callable[[], ImageTable]
    description: str
    default_recipe: str | None = None


CIFAR10 = Source(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    checksum="md5:c58f30108f718f92721af3b95e74349a",
    remedy="Fetch cifar-10-python.tar.gz by other means and give the file itself: loupe train cifar-10-python.tar.gz",
)
CIFAR100 = Source(
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    checksum="md5:eb9058c3a382ffc7106e4002c42a8d85",
    remedy="Fetch cifar-100-python.tar.gz by other means and give the file itself: loupe train cifar-100-python.tar.gz",
)


def digits() -> ImageTable:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 px, with 17 grey levels scaled to 0 to 255; no download."""
    values_NV = _digits_table()
    pixels = np.rint(values_NV[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return from_arrays(pixels, values_NV[:, -1].astype(int), name="digits")


def _digits_table() -> np.ndarray:
    """64 grey levels and a label for each digit, float64 [N, 65], from the file that is installed with scikit-learn.

    The package itself takes a second to import.
    """
    package = find_spec("sklearn")
    for folder in (package.submodule_search_locations if package else None) or ():
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    table_NV: np.ndarray = np.column_stack([bunch.data, bunch.target])
    return table_NV


def cifar10() -> ImageTable:
    """60,000 photographs of 32 x 32 px in 10 classes (Krizhevsky, 2009); 50,000 train, 10,000 test."""
    return _cifar(CIFAR10)


def cifar100() -> ImageTable:
    """60,000 photographs of 32 x 32 px in 100 classes (Krizhevsky, 2009); 50,000 train, 10,000 test."""
    return _cifar(CIFAR100)


DATASETS: dict[str, NamedDataset] = {
    "digits": NamedDataset(
        digits, "1,797 handwritten digits, 8 x 8 px, 10 classes; comes with scikit-learn", default_recipe="digits"
    ),
    "cifar10": NamedDataset(cifar10, "60,000 photographs, 32 x 32 px, 10 classes; 170 MB to download"),
    "cifar100": NamedDataset(cifar100, "60,000 photographs, 32 x 32 px, 100 classes; 169 MB to download"),
}


def load(name: str) -> ImageTable:
    """Load a named data set.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS, DataError)
    return DATASETS[name].load()


def _cifar(source: Source) -> ImageTable:
    """Table of a published archive; one in the cache that was damaged there is downloaded again."""
    target = download(source, cache_folder() / "datasets" / source.url.rpartition("/")[2])
    try:
        return archives.open_archive(target)
    except DataError:
        if source.is_checksum_of(target):
            raise
        logger.warning(f"{target} is damaged. It is downloaded again.")
        target.unlink()
        return archives.open_archive(download(source, target))
