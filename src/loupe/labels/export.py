"""Files about labels that look wrong: lists to correct and to train on, and a page.

labels.csv     all labelled images, suspects first, with the columns for training and the findings
kept.csv       the same images without the suspects of the training split, for `loupe train kept.csv --follow-links`
labels.html    the images of the suspects, and the effect of leaving them out
"""

import os
from itertools import chain, count
from pathlib import Path

import numpy as np

from loupe import csv_files
from loupe.data.table import ImageTable, text_name
from loupe.errors import ConfigError, DiskError
from loupe.evaluate.label_results import LabelFinding, LabelResults
from loupe.labels.find import LabelReport
from loupe.report import labels_page
from loupe.report.embed import source_of_image

TRAINED_ON = ("path", "label", "split", "group")
FOUND = ("suggested", "score", "score_of_suggested")
OF_EVERY_LABEL = ("score",)  # that was examined
MOST_PICTURES = 200
MOST_DOUBTFUL = 24


def check_new(folder: Path) -> None:
    """Raise a LoupeError if the folder exists: it may hold labels that were corrected."""
    if folder.exists():
        raise ConfigError(f"{folder} exists and may hold corrected labels. Choose another folder with --to.")


def free_name(dataset: str) -> Path:
    """`photos-labels`, or `photos-labels-2` and so on if that exists."""
    numbers = chain([""], (f"-{number}" for number in count(2)))
    return next(path for path in (Path(f"{dataset}-labels{number}") for number in numbers) if not path.exists())


def write(report: LabelReport, folder: Path) -> LabelResults:
    """Write the files into a new folder. Returns the results with the paths of the files.

    `kept.csv` is written only if the images are files: a list can name nothing else.
    """
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise DiskError(f"{folder} cannot be created: {error.strerror}. Choose another folder with --to.") from None
    places = _places(report.table, folder)
    written = {"labels": folder / "labels.csv", "page": folder / "labels.html"}
    csv_files.write(written["labels"], (*_columns(report), *FOUND), _labels(report, places or report.table.paths))
    if places is not None:
        written["kept"] = folder / "kept.csv"
        csv_files.write(written["kept"], _columns(report), _kept(report, places))
    results = report.results.model_copy(update={"files": {name: str(path) for name, path in written.items()}})
    pictures = [source_of_image(report.table, row) for row in report.suspect_rows[:MOST_PICTURES]]
    doubtful = [
        (report.finding(i), source_of_image(report.table, int(report.rows_N[i])))
        for i in report.doubtful[:MOST_DOUBTFUL]
    ]
    labels_page.write_page(written["page"], results, pictures, doubtful)
    return results


def _places(table: ImageTable, folder: Path) -> tuple[str, ...] | None:
    """Path of each image relative to the folder; None if an image is not a file."""
    files = [table.file(row) for row in range(len(table))]
    base = folder.resolve()
    return None if None in files else tuple(_relative(file, base) for file in files if file is not None)


def _relative(file: Path, base: Path) -> str:
    """Relative path; the absolute one if the two are on different drives."""
    whole = os.path.abspath(file)  # noqa: PTH100 - resolve() would follow links to names that nobody knows
    try:
        return text_name(Path(os.path.relpath(whole, base)).as_posix())
    except ValueError:
        return text_name(Path(whole).as_posix())


def _labels(report: LabelReport, places: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows: suspects, then the other examined images, each by rank; then the rest in the order of the table."""
    suspects, examined = set(report.order), {int(row) for row in report.rows_N}
    rows = []
    for i in np.lexsort((report.quality_N, ~report.suspect_N)).tolist():
        found = _cells(report.finding(i), FOUND if i in suspects else OF_EVERY_LABEL)
        rows.append({**_trained_on(report, int(report.rows_N[i]), places), **found})
    rows += [_trained_on(report, row, places) for row in _labelled(report) if row not in examined]
    return rows


def _cells(finding: LabelFinding, names: tuple[str, ...]) -> dict[str, str]:
    values = {name: getattr(finding, name) for name in names}
    return {name: f"{value:.4f}" if isinstance(value, float) else value for name, value in values.items()}


def _kept(report: LabelReport, places: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows without the suspects of train. Those of validation and test stay, for an unbiased accuracy."""
    left_out = {row for row in report.suspect_rows if report.splits[row] == "train"}
    return [_trained_on(report, row, places) for row in _labelled(report) if row not in left_out]


def _labelled(report: LabelReport) -> list[int]:
    return np.flatnonzero(report.table.labels >= 0).tolist()


def _columns(report: LabelReport) -> tuple[str, ...]:
    return TRAINED_ON if any(report.table.groups) else TRAINED_ON[:-1]


def _trained_on(report: LabelReport, row: int, places: tuple[str, ...]) -> dict[str, str]:
    table = report.table
    return {
        "path": places[row],
        "label": table.classes[table.labels[row]],
        "split": report.splits[row] or "",
        "group": table.groups[row] or "",
    }
