"""Python archives of CIFAR-10 and CIFAR-100, packed or unpacked, read without executing pickled code.

Format: https://www.cs.toronto.edu/~kriz/cifar.html. A batch is a pickled dictionary with `data` (uint8 [N, 3072]:
1024 red, then green, then blue values, row by row) and `labels` or `fine_labels`. The class names are in a separate
`meta` file.
"""

import gzip
import io
import os
import pickle
import pickletools
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loupe.data.sources.arrays import array_rows
from loupe.data.table import ImageTable, describe
from loupe.errors import DataError, enumerated


@dataclass(frozen=True)
class Layout:
    """Files of an archive, and the keys of labels and class names."""

    name: str
    meta: str
    names: bytes
    labels: bytes
    train: tuple[str, ...]
    test: str

    @property
    def files(self) -> tuple[str, ...]:
        return (self.meta, *self.train, self.test)


LAYOUTS = (
    Layout(
        "cifar10",
        "batches.meta",
        b"label_names",
        b"labels",
        tuple(f"data_batch_{i}" for i in range(1, 6)),
        "test_batch",
    ),
    Layout("cifar100", "meta", b"fine_label_names", b"fine_labels", ("train",), "test"),
)
FILES = frozenset(name for layout in LAYOUTS for name in layout.files)
MAX_BYTES = 2**28  # of all files, unpacked; those of the real archives have 186 MB
_MOST_STEPS = 500_000  # of the pickle of a file; those of the real archives have up to 300,000
_MOST_TUPLES = 100
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_DAMAGED = (pickle.UnpicklingError, LookupError, TypeError, ValueError, EOFError, AttributeError, OverflowError)
MOST_OTHER_FILES = 16  # beside those of the layouts; the real archives have 2


def is_archive_name(path: Path) -> bool:
    """True for the file name of a tar archive."""
    return path.name.lower().endswith((".tar.gz", ".tgz", ".tar"))


def find_folder(folder: Path) -> Path | None:
    """Folder of an unpacked archive: this folder, or a subfolder of the published name; None if there is none."""
    for here in (folder, folder / "cifar-10-batches-py", folder / "cifar-100-python"):
        if any(all(os.path.isfile(here / name) for name in (layout.meta, layout.test)) for layout in LAYOUTS):  # noqa: PTH113 - pathlib's raises without permission
            return here
    return None


def open_folder(folder: Path) -> ImageTable:
    """Open an unpacked archive.

    Raises:
        DataError: files are missing or damaged.
    """
    try:
        files = {name: (folder / name).read_bytes() for name in FILES if os.path.isfile(folder / name)}  # noqa: PTH113
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}.") from None
    return _table(files, folder)


def open_archive(path: Path) -> ImageTable:
    """Open a packed archive as a stream, without writing to disk.

    Raises:
        DataError: the archive is damaged, or is not an archive of CIFAR.
    """
    files: dict[str, bytes] = {}
    others = 0
    try:
        with path.open("rb") as file:
            is_packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            source = _Bounded(gzip.GzipFile(fileobj=file) if is_packed else file, path)
            archive = tarfile.open(fileobj=source, mode="r|")  # noqa: SIM115 - the file below it is closed
            for member in archive:
                name = member.name.rpartition("/")[2]
                if member.isfile() and name in FILES:
                    if member.issparse() or member.size > MAX_BYTES:  # holes take no room in the archive
                        raise _not_cifar(path)
                    stream = archive.extractfile(member)
                    assert stream is not None
                    files[name] = stream.read()
                elif (others := others + 1) > MOST_OTHER_FILES:
                    raise _not_cifar(path)
            while source.read(2**16):  # to the end, where the checksum is
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path}: damaged or truncated: {error}. Download it again.") from None
    return _table(files, path)


class _Bounded(io.BufferedIOBase):
    """Bytes of an archive, up to `MAX_BYTES`."""

    def __init__(self, source: io.BufferedIOBase | IO[bytes], path: Path) -> None:
        self._source, self._path, self._left = source, path, MAX_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        data = self._source.read(self._left + 1 if size is None or size < 0 else min(size, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise _not_cifar(self._path)
        return data


def _not_cifar(path: Path) -> DataError:
    return DataError(
        f"{path}: not a python archive of CIFAR-10 or CIFAR-100. For other archives, unpack them and give the folder."
    )


def _table(files: Mapping[str, bytes], path: Path) -> ImageTable:
    layout = next((layout for layout in LAYOUTS if layout.meta in files), None)
    if layout is None:
        raise _not_cifar(path)
    if missing := [name for name in layout.files if name not in files]:
        raise DataError(f"{path}: {enumerated(missing)} missing. Unpack or download the archive again.")
    try:
        classes = tuple(name.decode() for name in unpickle(files[layout.meta])[layout.names])
        parts = [(name, "train") for name in layout.train] + [(layout.test, "test")]
        rows = pa.concat_tables(
            [
                array_rows(*_batch(unpickle(files[name]), layout.labels), prefix=name, split=split)
                for name, split in parts
            ]
        )
    except (
        pickle.UnpicklingError,
        LookupError,
        TypeError,
        ValueError,
        EOFError,
        AttributeError,
        OverflowError,
    ) as error:
        raise DataError(f"{path}: not a valid CIFAR archive: {error}. Download it again.") from None
    return ImageTable(rows, classes, layout.name, notes=(describe(rows, classes),))


def _batch(batch: Mapping[bytes, Any], labels_key: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels [N,32,32,3] and labels [N]."""
    data, given = batch[b"data"].array(), batch[labels_key]
    if not isinstance(given, list) or not all(isinstance(label, int) for label in given):
        raise ValueError("labels that are not a list of whole numbers")
    labels = np.array(given, dtype=np.int64)
    if data.shape != (len(labels), 3072):
        raise ValueError(f"{len(labels)} labels with data of shape {list(data.shape)}")
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


class _Dtype:
    """Replacement of `numpy.dtype` that accepts only uint8."""

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in (b"u1", "u1"):
            raise pickle.UnpicklingError(f"an array of {code!r}; only uint8 is expected")

    def __setstate__(self, state: Any) -> None:
        """Ignore the byte order and other state, which uint8 does not need."""


class _Array:
    """Replacement of `numpy.ndarray` that keeps the pickled state, so that the file does not control NumPy."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def array(self) -> NDArray[np.uint8]:
        _, shape, dtype, fortran, data = self.state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array without plain uint8 data")
        return np.frombuffer(data, dtype=np.uint8).reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


class _Unpickler(pickle.Unpickler):
    """Unpickler for dictionaries, lists, bytes, numbers and uint8 arrays; other globals are refused before import."""

    ADMITTED: ClassVar[Mapping[tuple[str, str], Callable[..., Any]]] = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
    }

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        try:
            return self.ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which a CIFAR file does not need") from None

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to an object outside the file")


def unpickle(data: bytes) -> dict[bytes, Any]:
    """Dictionary of a pickled batch.

    Raises:
        UnpicklingError: the file has other contents than such a batch.
        ValueError: it is cut off.
    """
    _check_steps(data)
    value = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    if not isinstance(value, dict):
        raise pickle.UnpicklingError("a batch that is not a dictionary")
    return value


def _check_steps(data: bytes) -> None:
    """Refuse more steps than a batch needs, places of a memory that it does not fill, and tuples inside tuples."""
    tuples = 0
    for number, (step, argument, _) in enumerate(pickletools.genops(data)):
        tuples += "TUPLE" in step.name
        far = step.name in _PUTS and isinstance(argument, int) and argument > number
        if far or number > _MOST_STEPS or tuples > _MOST_TUPLES:
            raise pickle.UnpicklingError("it has more steps than a batch of CIFAR")
