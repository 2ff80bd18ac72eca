"""Names of classes in a file beside data whose labels are numbers: `classes.txt` with one name a line, or JSON."""

import json
from collections.abc import Callable, Sequence

from loupe.errors import DataError, counted

NameReader = Callable[[str], bytes | None]
"""Function from the name of a file beside the data to its content; None where there is none."""
FILES = (
    *("classes.txt", "classnames.txt", "class_names.txt", "labels.txt"),
    *("classes.json", "class_names.json", "labels.json", "class_to_idx.json"),
)
MOST_BYTES = 2**24


def class_names(beside: NameReader, where: str) -> tuple[tuple[str, ...], str] | None:
    """Names of classes by number, and the file that has them; None where no file is there.

    Raises:
        DataError: the file has no list of names.
    """
    for name in FILES:
        if (data := beside(name)) is None:
            continue
        try:
            text = data.decode("utf-8-sig")
            found = _of_json(json.loads(text)) if name.endswith(".json") else text.splitlines()
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{where}: {name} has no names of classes: {error}. Expected one name a line, or in JSON a list, or "
                "an object of names and numbers."
            ) from None
        names = [line.strip() for line in found]
        while names and not names[-1]:
            names.pop()
        return tuple(names), name
    return None


def named(labels: Sequence[str], names: Sequence[str], file: str, where: str) -> dict[str, int]:
    """Number of each label, all of which have a name.

    Raises:
        DataError: a label has none.
    """
    numbers = {label: int(float(label)) for label in labels}
    if wrong := [label for label, number in numbers.items() if not 0 <= number < len(names)]:
        raise DataError(
            f"{where}: label {wrong[0]} has no name in {file}, which has {counted(len(names), 'class')}, 0 to "
            f"{len(names) - 1}. Correct the file, or move it away for classes named by their numbers."
        )
    return numbers


def _of_json(value: object) -> list[str]:
    """Names by number, of a list, {"0": name}, or {name: 0}."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return value
    if isinstance(value, dict) and value:
        number_first = all(isinstance(name, str) for name in value.values())
        pairs = [(key, name) if number_first else (name, key) for key, name in value.items()]
        by_number = {int(str(number)): str(name) for number, name in pairs}
        if sorted(by_number) == list(range(len(value))):
            return [by_number[number] for number in range(len(value))]
    raise ValueError("neither a list of names nor names of the numbers from 0 on")
