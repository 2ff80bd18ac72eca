"""Displays of comparisons and their plans in notebook cells."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from loupe.evaluate.comparison_results import ComparisonPlan, ComparisonResults
from loupe.report.comparison_page import SPLITS, accuracy_of, columns, row_of
from loupe.report.comparison_tables import beside_accuracy
from loupe.report.template import frame, render

IN_NOTEBOOK = {"macro_f1", "roc_auc", "log_loss"}  # metrics beside accuracy, as many as have room
MOST_PX = 2400  # a higher display scrolls
T = TypeVar("T")


def in_notebook(results: ComparisonResults) -> str:
    """Verdicts, metrics, parameters, times and diagnoses of a comparison as HTML for a notebook cell, in a frame."""
    rows = [row_of(row, results.judgement, number) for number, row in enumerate(results.rows, 1)]
    left_out = {columns().index(one.heading) for one in beside_accuracy() if one.key not in IN_NOTEBOOK}
    left_out |= {len(columns()) - 1}
    diagnoses = [(row.name, measured.diagnosis) for row, measured in results.measured if measured.diagnosis]
    shown = {
        "name": results.name,
        "content": results,
        "judgement": results.judgement,
        "rows": [replace(row, cells=_without(row.cells, left_out)) for row in rows],
        "columns": _without(columns(), left_out),
        "accuracy": accuracy_of(results),
        "diagnoses": diagnoses,
    }
    page = render("cell_comparison.html", shown, styles=("cell.css",))
    height_px = 570 + 42 * len(results.measured) + 122 * len(rows) + 68 * len(diagnoses)
    return frame(page, min(MOST_PX, height_px))


def plan_in_notebook(plan: ComparisonPlan) -> str:
    """Expected time and disk space of each recipe of a comparison as HTML for a notebook cell, in a frame."""
    images = {SPLITS[split]: number for split, number in plan.images.items()}
    shown = {"name": plan.name, "content": plan, "images": images}
    return frame(render("cell_plan.html", shown, styles=("cell.css",)), min(MOST_PX, 330 + 104 * len(plan.rows)))


def _without(cells: Sequence[T], left_out: set[int]) -> list[T]:
    return [cell for number, cell in enumerate(cells) if number not in left_out]
