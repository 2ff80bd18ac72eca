"""Finished comparison, which a notebook shows as a table with its verdict."""

from loupe.evaluate.comparison_results import ComparisonResults
from loupe.report import comparison_cells, comparison_tables


class FinishedComparison(ComparisonResults):
    """Results of a comparison, as `loupe.compare` returns them; its file is that of `ComparisonResults`."""

    def __repr__(self) -> str:
        return comparison_tables.markdown(self)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """Summary for notebooks, as HTML."""
        return comparison_cells.in_notebook(self)
