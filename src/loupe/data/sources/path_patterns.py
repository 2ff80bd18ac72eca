"""Patterns that name several shards: ranges and lists in braces, as WebDataset users write them, and wildcards."""

import glob
import os
import re
from itertools import product
from pathlib import Path

from loupe.data.table import text_name
from loupe.errors import DataError, counted, enumerated

MOST_FILES = 100_000
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
_ANY = re.compile(r"[*?\[{]")


def is_pattern(text: str) -> bool:
    """True for a text with wildcards or braces."""
    return bool(_ANY.search(text))


def expanded(pattern: str) -> list[str]:
    """Texts of a pattern: each number of `{000..099}`, with as many digits, and each text of `{train,val}`.

    Raises:
        DataError: a range goes down, or there are more than `MOST_FILES`.
    """
    pieces: list[list[str]] = []
    end, total = 0, 1
    for found in _BRACES.finditer(pattern):
        pieces += [[pattern[end : found.start()]], _choices(found, pattern)]
        end = found.end()
        if (total := total * len(pieces[-1])) > MOST_FILES:
            raise DataError(f"{text_name(pattern)}: it names {total:,} files. At most {MOST_FILES:,} are read.")
    return ["".join(parts) for parts in product(*pieces, [pattern[end:]])]


def files_of(pattern: str) -> list[Path]:
    """Files that a pattern names, each once: those of braces in their order, those of wildcards sorted.

    Raises:
        DataError: nothing matches, or a file of a range is missing.
    """
    found, missing = [], []
    for text in expanded(pattern):
        own = _globbed(text)
        found += own
        missing += [] if own else [text]
    if not found:
        raise DataError(f"{text_name(pattern)}: no file matches.")
    if missing:
        raise DataError(
            f"{text_name(pattern)}: {len(missing):,} of {counted(len(missing) + len(found), 'file')} missing: "
            f"{enumerated([text_name(Path(text).name) for text in missing], most=3)}. Copy or download them, or name a "
            "smaller range."
        )
    return [Path(os.path.abspath(name)) for name in dict.fromkeys(found)]  # noqa: PTH100


def matches(pattern: str) -> bool:
    """True if a file matches a pattern."""
    return any(_globbed(text) for text in expanded(pattern))


def root_of(files: list[Path]) -> Path:
    """Folder that has all of the files below it."""
    return Path(os.path.commonpath([os.path.abspath(file.parent) for file in files]))  # noqa: PTH100


def name_of(pattern: str) -> str:
    """Name of the data set of a pattern: what leads its file names, as `photos` of `photos-{000..099}.tar`."""
    return text_name(lead_of(Path(pattern).name) or Path(os.path.abspath(pattern)).parent.name)  # noqa: PTH100


def lead_of(last: str) -> str:
    """Text before the first wildcard or brace of a name, without separators at its ends."""
    return (last[: found.start()] if (found := _ANY.search(last)) else last).strip("-_. ")


def _choices(found: re.Match[str], pattern: str) -> list[str]:
    if found[3] is not None:
        return found[3].split(",")
    first, last, width = int(found[1]), int(found[2]), len(found[1])
    if last < first:
        raise DataError(f"{text_name(pattern)}: the range {found[0]} goes down. Write the smaller number first.")
    if last - first >= MOST_FILES:
        raise DataError(f"{text_name(pattern)}: {found[0]} names {last - first + 1:,} files. At most {MOST_FILES:,}.")
    return [f"{number:0{width}}" for number in range(first, last + 1)]


def _globbed(text: str) -> list[str]:
    if os.path.isfile(text):  # noqa: PTH113
        return [text]
    return sorted(name for name in glob.glob(text, recursive=True) if os.path.isfile(name))  # noqa: PTH113, PTH207
