"""Learning curves of a run: loss and accuracy over the epochs, and over the L2 strengths of a solved head."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from loupe.evaluate.history import Row, StageResult, strength_of
from loupe.log import rounded
from loupe.report import figures, texts
from loupe.report.content import NARROW_PX, WIDE_PX, Drawing

LINES = (("training", "train", figures.FIRST), ("validation", "val", figures.SECOND))
QUANTITIES = ("loss", "accuracy")


@dataclass(frozen=True)
class ShownRow:
    """Row of the table of figures: an epoch or an L2 strength. `kept`: its weights were kept or selected."""

    name: str
    kept: bool
    figures: Row


@dataclass(frozen=True)
class Curves:
    """Figures of the stages that were trained in steps, or of one solved head.

    Attributes:
        title: the part of the network and how it was trained; None if there is nothing else.
        unit: `epoch` or `L2 strength`.
        mark: the kept weights in words; None if they are not among these.
        several: more than one stage.
        validated: validation was measured.
    """

    title: str | None
    unit: str
    mark: str | None
    several: bool
    validated: bool
    drawings: Sequence[Drawing]
    rows: Sequence[ShownRow]


def curves(history: Sequence[Row], stages: Sequence[StageResult], kept: int | None) -> list[Curves]:
    """Figures of consecutive epochs together, and of each solved head.

    Args:
        history: rows of metrics.csv.
        stages: stages of the run; empty where they are not known.
        kept: row whose weights were kept, from 1; None where not known.
    """
    chosen = history[kept - 1] if kept and kept <= len(history) else None
    parts = list(_parts(history))
    shown, epochs = [], 0
    for rows in parts:
        numbers = sorted({int(row.get("stage") or 0) for row in rows})
        names = [texts.part(stages[number - 1]) for number in numbers if 0 < number <= len(stages)]
        title = f"{', then '.join(dict.fromkeys(names)) or 'network'}: " if len(parts) > 1 else None
        if strength_of(rows[0]):
            selected = stages[numbers[0] - 1].l2_strength if 0 < numbers[0] <= len(stages) else None
            shown.append(_strengths(rows, selected, title and f"{title}solved for each L2 strength"))
        else:
            first = epochs + 1 if len(parts) > 1 else None
            shown.append(_epochs(rows, chosen, title and f"{title}trained in steps", first))
            epochs += len(rows)
    return shown


def _parts(history: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows of each solved head, and of the stages between."""
    for _, rows in groupby(history, key=lambda row: row.get("stage") if strength_of(row) else None):
        yield list(rows)


def _epochs(rows: Sequence[Row], chosen: Row | None, title: str | None, first: int | None) -> Curves:
    """Curves over the epochs, numbered as in metrics.csv, or from `first` on where it has L2 strengths too."""
    epochs = [int(row.get("epoch") or 0) if first is None else first + i for i, row in enumerate(rows)]
    stages = [row.get("stage") for row in rows]
    starts = [epoch for epoch, before, stage in zip(epochs[1:], stages, stages[1:], strict=False) if stage != before]
    kept = next((epoch for epoch, row in zip(epochs, rows, strict=True) if row is chosen), None)
    return Curves(
        title,
        "epoch",
        None if kept is None else f"weights kept: epoch {kept}",
        bool(starts),
        _is_validated(rows),
        _drawings(rows, figures.Axis("epoch", epochs, kept, starts)),
        [
            ShownRow("–" if row.get("epoch") is None else f"{epoch:,}", row is chosen, row)
            for epoch, row in zip(epochs, rows, strict=True)
        ],
    )


def _strengths(rows: Sequence[Row], selected: float | None, title: str | None) -> Curves:
    """Curves of one solved head over its L2 strengths, on a logarithmic scale."""
    values = [strength_of(row) or 1.0 for row in rows]
    kept = min(values, key=lambda value: abs(value - selected)) if selected is not None else None
    return Curves(
        title,
        "L2 strength",
        None if kept is None else f"selected: L2 strength {rounded(kept)}",
        False,
        _is_validated(rows),
        _drawings(rows, figures.Axis("L2 strength", values, kept, logarithmic=True)),
        [ShownRow(rounded(value), value == kept, row) for value, row in zip(values, rows, strict=True)],
    )


def _is_validated(rows: Sequence[Row]) -> bool:
    return any(row.get(f"val_{quantity}") is not None for row in rows for quantity in QUANTITIES)


def _drawings(rows: Sequence[Row], axis: figures.Axis) -> list[Drawing]:
    """Figures of loss and accuracy for training and validation, as far as they were measured."""
    drawings = []
    for quantity in QUANTITIES:
        lines = [
            figures.Curve(name, [row.get(f"{key}_{quantity}") for row in rows], color) for name, key, color in LINES
        ]
        lines = [line for line in lines if any(value is not None for value in line.values)]
        if not lines:
            continue
        words = f"{quantity.capitalize()} by {axis.unit}. " + " ".join(_in_words(line, axis) for line in lines)
        wide, narrow = (
            figures.learning_curve(axis, lines, label=words, width_px=width_px, percent=quantity == "accuracy")
            for width_px in (WIDE_PX, NARROW_PX)
        )
        drawings.append(Drawing(quantity.capitalize(), wide, narrow))
    return drawings


def _in_words(curve: figures.Curve, axis: figures.Axis) -> str:
    """Alt text of one curve."""
    points = [(at, value) for at, value in zip(axis.values, curve.values, strict=True) if value is not None]
    (first, start), (last, end) = points[0], points[-1]
    name = rounded if axis.logarithmic else str
    text = f"{curve.name.capitalize()}: from {start:.3f} at {axis.unit} {name(first)}"
    text += f" to {end:.3f} at {axis.unit} {name(last)}"
    for at, value in points:
        if at == axis.kept:
            return f"{text}, {value:.3f} at the {'selected' if axis.logarithmic else 'kept'} {axis.unit}, {name(at)}."
    return f"{text}."
