"""NumPy arrays in files of the cache, mapped for reading. Whatever is wrong with a file, it is one kind of error."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def mapped(path: Path) -> npt.NDArray[Any]:
    """The array in a .npy file, mapped, not to be written to.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is damaged, or holds something else.
    """
    try:
        found = np.load(path, mmap_mode="r")
        if not isinstance(found, np.ndarray):
            raise ValueError("it holds several arrays")
        return found.view(np.ndarray)
    except FileNotFoundError:
        raise
    except Exception as error:  # the header is Python, and a damaged one raises whatever Python's parser raises
        raise ValueError(" ".join(str(error).split())[:200] or type(error).__name__) from None


def header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The shape and the type that a .npy file is begun with; the rows need not be there yet.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is damaged, or holds something else.
    """
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except FileNotFoundError:
        raise
    except Exception as error:  # as above
        raise ValueError(" ".join(str(error).split())[:200] or type(error).__name__) from None
    if fortran:
        raise ValueError("it is stored by columns")
    return shape, dtype
