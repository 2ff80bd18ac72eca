"""Page of `loupe check --near --report`: near duplicates side by side, and the other findings, in one file."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from loupe.data.audit.check_report import CheckReport
from loupe.data.audit.findings import findings, listed
from loupe.data.audit.near_duplicates import DISTANCE, NearPair, NearReport
from loupe.data.table import ImageTable
from loupe.files import write_atomic
from loupe.report.check_conclusions import conclusions
from loupe.report.embed import source_of_image
from loupe.report.template import render

MOST_SHOWN = 100  # pairs of each kind on the page, with the smallest distance
FIRST_SHOWN = 24  # pairs of a kind; the others are in a closed section
MOST_LINES = 10


@dataclass(frozen=True)
class Side:
    """One image of a pair; `source` is a data URI."""

    source: str
    path: str
    split: str | None
    label: str | None


@dataclass(frozen=True)
class Shown:
    """One pair of images."""

    sides: tuple[Side, Side]
    distance: float
    mirrored: bool
    same_label: bool | None


@dataclass(frozen=True)
class Kind:
    """Pairs of one kind: their counts, and the pairs that are shown."""

    name: str
    count: Mapping[str, int]
    across: bool
    pairs: list[Shown]


def write_page(path: Path, table: ImageTable, report: CheckReport, near: NearReport) -> None:
    """Write the page of the findings in `table`.

    Raises:
        ImageError: an image has become unreadable.
    """
    counts = near.counts()
    kinds = [
        _kind(name, counts[name], list(pairs), table) for name, pairs in groupby(near.pairs, key=lambda pair: pair.kind)
    ]
    shown: dict[str, Any] = {
        "name": report.name,
        "report": report,
        "near": near,
        "limit": DISTANCE,
        "kinds": kinds,
        "across": sum(pair.across for pair in near.pairs),
        "conclusions": conclusions(report).sentences,
        "findings": [(title, listed(lines, MOST_LINES), len(lines)) for title, lines in findings(report)],
        "most_shown": MOST_SHOWN,
        "first_shown": FIRST_SHOWN,
    }
    write_atomic(path, render("checked.html", shown))


def _kind(name: str, count: Mapping[str, int], pairs: list[NearPair], table: ImageTable) -> Kind:
    return Kind(name, count, pairs[0].across, [_shown(pair, table) for pair in pairs[:MOST_SHOWN]])


def _shown(pair: NearPair, table: ImageTable) -> Shown:
    first, second = (
        Side(source_of_image(table, row), path, split, label)
        for row, path, split, label in zip((pair.first, pair.second), pair.paths, pair.splits, pair.labels, strict=True)
    )
    return Shown((first, second), pair.distance, pair.mirrored, pair.same_label)
