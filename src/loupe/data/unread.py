"""Image files of a source that cannot be read here: counted by class and format, so that none is lost silently."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from loupe.data.formats import FORMATS, SIGNATURE_BYTES, format_of_suffix, image_suffixes, sniff
from loupe.errors import counted, enumerated

MISNAMED = "misnamed"
"""In place of a format: images of a readable format, in files without an image's suffix."""
IRREGULAR = "irregular"
"""In place of a format: pipes, sockets and devices with the names of images."""
LOST_FRACTION = 0.1
"""Fraction of a class's images above which unreadable ones make the data unfit."""
COMPANIONS = frozenset(
    {".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".html", ".htm", ".ini", ".cfg", ".log"}
    | {".db", ".py", ".ipynb", ".pdf", ".zip", ".gz"}
)
"""Suffixes of files that often lie beside images, and whose content is not looked at."""
MOST_CLASSES = 5


@dataclass(frozen=True)
class UnreadFiles:
    """Image files of one class and one format that are left out; `label` is None for files without a class."""

    label: str | None
    format: str
    paths: tuple[str, ...]


def unread_format(suffix: str, file: Path) -> str | None:
    """Format of a file that is left out although it is an image, or None.

    It is a known format that is unreadable, `misnamed`, or `irregular`.

    Args:
        suffix: of the file, lower case; one of `image_suffixes()` only where the file is not a regular one.
        file: read only where the suffix says nothing.
    """
    if known := format_of_suffix(suffix):
        return known if _is_regular(file) else IRREGULAR
    if suffix in COMPANIONS:
        return None
    try:
        status = file.stat()
        if not S_ISREG(status.st_mode) or not status.st_size:  # files of the system, which may wait, state no size
            return None
        with file.open("rb") as opened:
            found = sniff(opened.read(SIGNATURE_BYTES))
    except OSError:
        return None
    if found is None or found == "TGA":  # Targa has no signature: too weak where the suffix says nothing
        return None
    return MISNAMED if FORMATS[found].is_readable else found


def _is_regular(file: Path) -> bool:
    """True for a regular file, and for one that cannot be looked at."""
    try:
        return S_ISREG(file.stat().st_mode)
    except OSError:
        return True


def grouped(files: Iterable[tuple[str | None, str, str]]) -> tuple[UnreadFiles, ...]:
    """Unread files from (label, format, path) of each, in the order of labels and formats."""
    paths: dict[tuple[str | None, str], list[str]] = {}
    for label, name, path in files:
        paths.setdefault((label, name), []).append(path)
    order = sorted(paths, key=lambda key: (key[0] is None, key[0] or "", key[1]))
    return tuple(UnreadFiles(*key, tuple(paths[key])) for key in order)


def sentences_on(unread: Sequence[UnreadFiles], read: Mapping[str, int]) -> list[str]:
    """One warning for each format; `read` is the number of readable images of each class."""
    all_files = _per_class(unread)
    warnings = []
    for name in dict.fromkeys(group.format for group in unread):
        groups = [group for group in unread if group.format == name]
        files = sum(len(group.paths) for group in groups)
        parts = [
            f"{len(group.paths):,} of {all_files[group.label] + read.get(group.label, 0):,} in {group.label}"
            for group in groups
            if group.label is not None
        ]
        where = f" ({enumerated(parts, most=MOST_CLASSES)})" if parts else ""
        warnings.append(sentence_on(name, files, where, groups[0].paths[0]))
    return warnings


def sentence_on(name: str, files: int, where: str, example: str) -> str:
    """Warning on unread files of one format, or `misnamed`: their number, where they are, and one of them."""
    verb = "is" if files == 1 else "are"
    if name == MISNAMED:
        suffixes = enumerated(sorted(image_suffixes() & {".jpg", ".png", ".webp"}), "or")
        return (
            f"{counted(files, 'image')} {verb} left out{where}: no image suffix, as {example}. Rename "
            f"{'it' if files == 1 else 'them'} to end in {suffixes}."
        )
    if name == IRREGULAR:
        return (
            f"{counted(files, 'file')} with an image's name {verb} left out{where}: not a regular file, as {example}. "
            "Pipes and devices are never read."
        )
    return f"{counted(files, f'{name} image')} cannot be read and {verb} left out{where}. {FORMATS[name].remedy}"


def lost_classes(unread: Sequence[UnreadFiles], read: Mapping[str, int]) -> list[str]:
    """A line for each class that loses more than `LOST_FRACTION` of its images."""
    lines = []
    for label, lost in _per_class(unread).items():
        if label is None:
            continue
        images = lost + read.get(label, 0)
        if lost > LOST_FRACTION * images:
            lines.append(f"{label}: {lost:,} of {counted(images, 'image')}")
    return lines


def _per_class(unread: Sequence[UnreadFiles]) -> Counter[str | None]:
    counts: Counter[str | None] = Counter()
    for group in unread:
        counts[group.label] += len(group.paths)
    return counts
