"""Names of classes: compared in one Unicode form, ordered as numbers where they are numbers, and near-equal ones noted.

Two spellings of `café`, with one character for the accented letter (NFC) or with two (NFD), look the same and are the
same class. The spelling that was met first is kept.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any
from unicodedata import normalize

from loupe.errors import counted, enumerated

MISSING = frozenset({"nan", "null", "na", "n/a", "<na>", "nat"})
"""Texts, in small letters, that stand for a missing value in files of pandas and spreadsheets."""

_WHOLE = re.compile(r"[-+]?[0-9]+(\.0*)?")
_NUMBER_STARTS, _MOST_DIGITS = frozenset("+-.0123456789"), 25
_SPACES = re.compile(r"(?<=\w)[\s_-]+(?=\w)")
_NO_LETTERS = re.compile(r"[^\S\n]+|[_-]+")  # what may be in one of two names that are loosely equal, but line ends
_NUMERIC = re.compile(r"[\d.e+]*")  # without what `_NO_LETTERS` finds, all that a number may have


def same_form(name: str) -> str:
    """Name in the form in which names are compared: Unicode's NFC."""
    return name if name.isascii() else normalize("NFC", name)


def same_forms(names: Iterable[str]) -> list[str]:
    """Names in the form in which names are compared; fast for a million."""
    given = [*names]
    return given if all(map(str.isascii, given)) else [same_form(name) for name in given]


def sorted_classes(values: Iterable[Any]) -> tuple[str, ...]:
    """Distinct class names, one for each form, sorted as numbers if all are whole numbers, else alphabetically."""
    return _sorted(tuple(dict.fromkeys(map(str, values))))


@lru_cache(maxsize=1)
def _sorted(distinct: tuple[str, ...]) -> tuple[str, ...]:
    """Sorted names; a source asks for those of all its images, and again for those of each split."""
    if all(map(str.isascii, distinct)):
        return tuple(sorted(distinct, key=_number if are_numbers(distinct) else None))
    given = sorted(distinct, key=lambda name: (name == same_form(name), name))
    names = {same_form(name): name for name in given}  # of several spellings the NFC one
    return tuple(names[form] for form in sorted(names, key=_number if are_numbers(names) else None))


def _number(name: str) -> tuple[Decimal, str]:
    return Decimal(name), name


def are_numbers(names: Iterable[str]) -> bool:
    """True if all names are whole numbers."""
    return all(_WHOLE.fullmatch(name) for name in names)


def index_of(classes: Sequence[str]) -> dict[str, int]:
    """Index of each class by the form in which names are compared."""
    return {name: i for i, name in enumerate(same_forms(classes))}


def form_notes(names: Iterable[str]) -> list[str]:
    """Note on names that are one class in several Unicode forms."""
    given = [*names]
    if all(map(str.isascii, given)):
        return []
    forms: dict[str, set[str]] = {}
    for name in given:
        forms.setdefault(same_form(name), set()).add(name)
    repeated = [name for name, spellings in forms.items() if len(spellings) > 1]
    if not repeated:
        return []
    if len(repeated) == 1:
        return [f"{repeated[0]} is spelled in two Unicode forms, and taken as one class."]
    return [f"{enumerated(repeated, most=5)} are spelled in two Unicode forms, and taken as one class each."]


def loosely(name: str) -> str:
    """Name without what is easily written differently: form, case, spaces, and the format of a number."""
    text = name if name.isascii() else normalize("NFKC", name)
    text = text.strip().casefold()
    if text.isascii() and text.isdigit() and len(text) < _MOST_DIGITS:
        return text.lstrip("0") or "0"
    if text[:1] in _NUMBER_STARTS and len(text) < _MOST_DIGITS:
        try:
            number = Decimal(text)
        except InvalidOperation:
            return _SPACES.sub("", text)
        if number.is_finite() and abs(number.adjusted()) < _MOST_DIGITS:
            return f"{number.normalize() + 0:f}"
    return text if text.isalnum() else _SPACES.sub("", text)


def similar(classes: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of class names that differ only in form, case, spaces or number format."""
    return [*_similar(tuple(classes))]


@lru_cache(maxsize=1)
def _similar(classes: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Groups of the classes; a command asks for them when it opens the images and again when it checks them."""
    keys = _roughly(classes)
    if len(set(keys)) == len(keys):
        return ()
    count = Counter(keys)
    groups: dict[str, list[str]] = {}
    for name, key in zip(classes, keys, strict=True):
        if count[key] > 1:
            groups.setdefault(loosely(name), []).append(name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)


def _roughly(names: Sequence[str]) -> list[str]:
    """Keys of names, equal where the names are `loosely` equal, and maybe elsewhere; fast for a million.

    Where a key is not numeric, the name has a character that no number has, and is not loosely equal to one.
    """
    joined = "\n".join(names)
    text = (joined if joined.isascii() else normalize("NFKC", joined)).casefold()
    keys = _NO_LETTERS.sub("", text).split("\n")
    if len(keys) != len(names):  # a name has a line end
        return [*map(loosely, names)]
    return [loosely(names[i]) if _NUMERIC.fullmatch(key) else key for i, key in enumerate(keys)]


def notes(classes: Sequence[str]) -> list[str]:
    """Notes on class names that may be mistakes: near-equal ones, and texts that stand for a missing value."""
    found = []
    if alike := similar(classes):
        pairs = [" = ".join(map(repr, names)) for names in alike]
        found.append(
            f"Classes that differ only in form, case, spaces or number format: {enumerated(pairs, most=5)}. They are "
            f"{counted(sum(map(len, alike)), 'class')}; if that is a mistake, give them one name."
        )
    if missing := [name for name in classes if name == "None" or name.strip().casefold() in MISSING]:
        found.append(
            f"{enumerated([repr(name) for name in missing])} is a class here. If it stands for a missing label, leave "
            "these images out."
        )
    return found


def hint(unknown: Iterable[str], classes: Iterable[str]) -> str:
    """Sentence on classes that an unknown name nearly equals; empty without any."""
    near = {loosely(name): name for name in classes}
    pairs = [f"{name!r} nearly equals {near[loosely(name)]!r}" for name in unknown if loosely(name) in near]
    return f" {enumerated(pairs, most=3)}: rename one of them." if pairs else ""
