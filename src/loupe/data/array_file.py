"""Memory-mapped NumPy arrays in files of the cache; a damaged file raises ValueError, whatever the damage."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def mapped(path: Path) -> npt.NDArray[Any]:
    """Map the array in a .npy file, read-only.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, or holds something else.
    """
    try:
        array = np.load(path, mmap_mode="r")
        if not isinstance(array, np.ndarray):
            raise ValueError("it holds several arrays")
        return array.view(np.ndarray)
    except FileNotFoundError:
        raise
    except Exception as error:  # the header is Python, and a damaged one raises whatever Python's parser raises
        raise ValueError(" ".join(str(error).split())[:200] or type(error).__name__) from None


def header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type in the header of a .npy file, which may still be written.

    Raises:
        FileNotFoundError: the file does not exist.
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
