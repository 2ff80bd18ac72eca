"""The files of a comparison: the name that they have, what they hold of the same comparison, and writing them."""

from contextlib import suppress
from itertools import count
from pathlib import Path

from loupe import files
from loupe.errors import ConfigError, DiskError
from loupe.evaluate.comparison_results import Comparison, ComparisonResults
from loupe.records import RecordError
from loupe.report import comparison_page as page
from loupe.report import comparison_tables

KINDS = (".json", ".md", ".csv", ".html")


def check_name(name: str | None) -> None:
    """LoupeError where a name is a path."""
    if name is not None and (Path(name).name != name or name in {".", ".."}):
        raise ConfigError(f"--name {name!r} must be a plain file name. Use --output for the folder.")


def name_of(asked: Comparison, name: str | None, output: Path) -> tuple[str, ComparisonResults | None]:
    """The name of the files, and the earlier results there of the same command on a dataset of the same name.

    Another comparison's files are never replaced: without a name of its own, one gets the next number.

    Raises:
        LoupeError: `name` is another comparison's.
    """
    for number in count(1):
        wanted = asked.name if number == 1 else f"{asked.name}-{number}"
        before = _read(output / f"{wanted}.json")
        if before and before.same_command(asked):
            return wanted, before
        if not any((output / f"{wanted}{kind}").exists() for kind in KINDS):
            return wanted, None
        if name:
            what = f"of another comparison ({before.command})" if before else "there"
            raise ConfigError(
                f"--name {name}: files of that name in {output} are {what}. Choose another, or delete them."
            )
    raise AssertionError("numbers do not end")


def _read(path: Path) -> ComparisonResults | None:
    """The results in a comparison's JSON file; None where there is none, or one that cannot be read."""
    with suppress(RecordError):
        return ComparisonResults.read(path)
    return None


def write(results: ComparisonResults, output: Path) -> None:
    """The comparison in its four forms; each file is replaced whole."""
    name = results.name
    try:
        output.mkdir(parents=True, exist_ok=True)
        results.write(output / f"{name}.json")
        files.write_atomic(output / f"{name}.md", comparison_tables.markdown(results))
        comparison_tables.write_csv(output / f"{name}.csv", results)
        page.write_page(output / f"{name}.html", results)
    except OSError as error:
        raise DiskError(
            f"{output / name}: the comparison cannot be written: {error.strerror or error}. The runs are there: free "
            "space or give write permission, and the same command writes it."
        ) from None
