"""Planned comparison, which a notebook shows as a table of recipes with their expected cost."""

from loupe.evaluate.comparison_results import ComparisonPlan
from loupe.report import comparison_cells, comparison_tables


class PlannedComparison(ComparisonPlan):
    """Plan of a comparison, as `loupe.compare(..., plan_only=True)` returns it."""

    def __repr__(self) -> str:
        return comparison_tables.plan_text(self)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """Table for notebooks, as HTML."""
        return comparison_cells.plan_in_notebook(self)
