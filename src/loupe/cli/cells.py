"""Cells of the tables in the terminal."""

from rich.markup import escape

from loupe.evaluate.estimate import Estimate
from loupe.log import printable


def estimate(metric: Estimate) -> str:
    """`0.9722 (0.9361 to 0.9881)`; the reason where it is undefined."""
    if metric.value is None:
        return plain(f"undefined: {metric.why}")
    has_interval = metric.low is not None and metric.high is not None
    return without_interval(metric) + (f" ({metric.low:.4f} to {metric.high:.4f})" if has_interval else "")


def without_interval(metric: Estimate) -> str:
    return "–" if metric.value is None else f"{metric.value:.4f}"


def plain(text: str) -> str:
    """Escape names of classes and files, so that they are neither markup nor terminal commands."""
    return escape(printable(text))
