"""Files of a comparison: their name, earlier results under that name, and writing them."""

from contextlib import suppress
from itertools import count
from pathlib import Path

from loupe import files
from loupe.comparison.finished import FinishedComparison
from loupe.errors import ConfigError, DiskError
from loupe.evaluate.comparison_results import Comparison, ComparisonResults
from loupe.records import RecordError
from loupe.report import comparison_page as page
from loupe.report import comparison_tables

KINDS = (".json", ".md", ".csv", ".html")


def check_name(name: str | None) -> None:
    """Check the name of the files.

    Raises:
        ConfigError: the name is a path.
    """
    if name is not None and (Path(name).name != name or name in {".", ".."}):
        raise ConfigError(f"--name {name!r} is not a plain file name. Give the folder with --output.")


def name_of(comparison: Comparison, name: str | None, output: Path) -> tuple[str, ComparisonResults | None]:
    """Name for the files, and earlier results of the same comparison under that name; None if there are none.

    Files of another comparison are never replaced: without `name`, a numeric suffix is added.

    Raises:
        ConfigError: files of another comparison have the given `name`.
    """
    for number in count(1):
        wanted = comparison.name if number == 1 else f"{comparison.name}-{number}"
        before = _read(output / f"{wanted}.json")
        if before and before.same_command(comparison):
            return wanted, before
        if not any((output / f"{wanted}{kind}").exists() for kind in KINDS):
            return wanted, None
        if name:
            owner = f", from another comparison ({before.command})" if before else ""
            raise ConfigError(
                f"--name {name}: files of that name exist in {output}{owner}. Choose another name, or delete them."
            )
    raise AssertionError("numbers do not end")


def named(comparison: Comparison, name: str | None, output: Path) -> tuple[Comparison, ComparisonResults | None]:
    """Comparison under the name of its files, and its earlier results (`name_of`)."""
    free, before = name_of(comparison, name, output)
    return comparison.model_copy(update={"name": free}), before


def _read(path: Path) -> ComparisonResults | None:
    """Results in a comparison's JSON file; None if it is missing or unreadable."""
    with suppress(RecordError):
        return FinishedComparison.read(path)
    return None


def write(results: ComparisonResults, output: Path) -> None:
    """Write the comparison as JSON, Markdown, CSV and HTML; each file is replaced atomically.

    Raises:
        DiskError: a file cannot be written.
    """
    name = results.name
    try:
        output.mkdir(parents=True, exist_ok=True)
        results.write(output / f"{name}.json")
        files.write_atomic(output / f"{name}.md", comparison_tables.markdown(results))
        comparison_tables.write_csv(output / f"{name}.csv", results)
        page.write_page(output / f"{name}.html", results)
    except OSError as error:
        raise DiskError(
            f"{output / name}: the comparison cannot be written: {error.strerror or error}. The runs are saved. Free "
            "space or give write permission, then give the same command again."
        ) from None
