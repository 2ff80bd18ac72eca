"""The files of a comparison: the name that they have, what they hold of the same comparison, and writing them."""

import json
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from loupe import files
from loupe.errors import LoupeError
from loupe.report import comparison_page as page
from loupe.report import comparison_tables

KINDS = (".json", ".md", ".csv", ".html")


def check_name(name: str | None) -> None:
    """LoupeError where a name is a path."""
    if name is not None and (Path(name).name != name or name in {".", ".."}):
        raise LoupeError(f"--name {name!r} must be a plain file name. Use --output for the folder.")


def name_of(content: Mapping[str, Any], name: str | None, output: Path) -> tuple[str, dict[str, Any] | None]:
    """The name of the files, and what they hold of the same comparison: of the same command on data of the same name.

    Another comparison's files are never replaced: without a name of its own, one gets the next number.

    Raises:
        LoupeError: `name` is another comparison's.
    """
    for number in count(1):
        wanted = content["name"] if number == 1 else f"{content['name']}-{number}"
        before = _read(output / f"{wanted}.json")
        if before and all(before.get(key) == content[key] for key in ("schema", "dataset", "command")):
            return wanted, before
        if not any((output / f"{wanted}{kind}").exists() for kind in KINDS):
            return wanted, None
        if name:
            what = f"of another comparison ({before['command']})" if before and "command" in before else "there"
            raise LoupeError(
                f"--name {name}: files of that name in {output} are {what}. Choose another, or delete them."
            )
    raise AssertionError("numbers do not end")


def _read(path: Path) -> dict[str, Any] | None:
    """The content of a comparison's JSON file; None where there is none, or one that cannot be read."""
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) and "rows" in content else None
    return None


def write(content: Mapping[str, Any], output: Path) -> None:
    """The comparison in its four forms; each file is replaced whole."""
    name = content["name"]
    try:
        output.mkdir(parents=True, exist_ok=True)
        files.write_atomic(output / f"{name}.json", comparison_tables.as_json(content))
        files.write_atomic(output / f"{name}.md", comparison_tables.markdown(content))
        files.write_atomic(output / f"{name}.csv", comparison_tables.csv_table(content))
        page.write_page(output / f"{name}.html", content)
    except OSError as error:
        raise LoupeError(
            f"{output / name}: the comparison cannot be written: {error.strerror or error}. The runs are there: free "
            "space or give write permission, and the same command writes it."
        ) from None
