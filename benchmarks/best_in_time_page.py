"""Cells of benchmarks/best_in_time.py, and the page and figure that show them."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt

COLOURS = {"loupe": "#0072b2", "features": "#56b4e9", "timm": "#d55e00", "autogluon": "#009e73"}
NAMES = {
    "loupe": "Loupe, --time-limit",
    "features": "Loupe, features",
    "timm": "timm, fine-tuning",
    "autogluon": "AutoGluon MultiModal",
}


@dataclass(frozen=True)
class Cell:
    """One training of one contender on one set, as the judge saw it.

    Attributes:
        minutes: limit; None without.
        seconds: time of the process that trained.
        hits: bool [N], true where a test image was classified correctly.
        failure: last line of its output if it failed; an image without a prediction is a miss.
        receipt: what a run of Loupe delivered.
    """

    set: str
    contender: str
    minutes: float | None
    seed: int
    seconds: float
    hits: npt.NDArray[np.bool_]
    macro_f1: float
    failure: str | None
    receipt: str | None

    @property
    def accuracy(self) -> float:
        return float(self.hits.mean())

    def to_json(self) -> dict[str, Any]:
        own = {key: value for key, value in vars(self).items() if key != "hits"}
        return own | {"accuracy": self.accuracy, "images": len(self.hits)}


def write_page(folder: Path, cells: Sequence[Cell], rows: Sequence[dict[str, Any]], setting: dict[str, Any]) -> None:
    """Write best_in_time.json, best_in_time.md and best_in_time.png."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {**setting, "cells": [cell.to_json() for cell in cells], "differences": list(rows)}
    (folder / "best_in_time.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "best_in_time.md").write_text(markdown(cells, rows, setting), encoding="utf-8")
    figure(folder / "best_in_time.png", cells)


def grouped(cells: Sequence[Cell]) -> dict[tuple[str, float | None, str], list[Cell]]:
    groups: dict[tuple[str, float | None, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.set, cell.minutes, cell.contender), []).append(cell)
    return groups


def markdown(cells: Sequence[Cell], rows: Sequence[dict[str, Any]], setting: dict[str, Any]) -> str:
    processor, cores = setting["machine"]["processor"], setting["machine"]["cores"]
    lines = [
        "# The best classifier in a given time",
        "",
        f"`python benchmarks/best_in_time.py $LOUPE_DATA`, commit {setting['commit']}; {processor}, {cores} cores.",
        "Test accuracy and macro-F1 (percent, means over seeds); lowest and highest accuracy; median time of process.",
        "",
        "| set | limit | contender | accuracy | lowest, highest | macro-F1 | time | seeds | delivered |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, minutes, contender), same in grouped(cells).items():
        hits = [100 * cell.accuracy for cell in same]
        failed = sum(cell.failure is not None for cell in same)
        delivered = "; ".join(dict.fromkeys(cell.receipt for cell in same if cell.receipt))
        lines.append(
            f"| {name} | {'none' if minutes is None else f'{minutes:g} min'} | {NAMES[contender]} "
            f"| {statistics.fmean(hits):.1f} | {min(hits):.1f}, {max(hits):.1f} "
            f"| {100 * statistics.fmean(cell.macro_f1 for cell in same):.1f} "
            f"| {statistics.median(cell.seconds for cell in same):.0f} s "
            f"| {len(same)}{f', {failed} failed' if failed else ''} | {delivered} |"
        )
    lines += [
        "",
        "Loupe with the limit less each other contender: points of accuracy on the same images, averaged over seeds,",
        "with the 95 % interval of a paired bootstrap over images and the p-value of the sign-flip test. Where the",
        "other one took longer than the limit, its time is given:",
        "",
        "| set | limit | against | points | p |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        value, low, high = (100 * row[key] for key in ("value", "low", "high"))
        lines.append(
            f"| {row['set']} | {row['minutes']:g} min | {NAMES[row['other']]}{longer(row)} "
            f"| {value:+.1f} ({low:.1f} to {high:.1f}) | {row['p']:.2g} |"
        )
    return "\n".join([*lines, "", "![Accuracy against time](best_in_time.png)", ""])


def longer(row: dict[str, Any]) -> str:
    """Time of a contender that took more than the limit."""
    seconds = row["other_seconds"]
    return f", in {seconds:.0f} s" if seconds > 1.02 * 60 * row["minutes"] else ""


def figure(path: Path, cells: Sequence[Cell]) -> None:
    """Test accuracy against the time of the process: one panel for each set, one line for each contender."""
    sets = list(dict.fromkeys(cell.set for cell in cells))
    columns = min(3, len(sets))
    drawn, panels = plt.subplots(
        -(-len(sets) // columns), columns, figsize=(4 * columns, 3.2 * -(-len(sets) // columns)), squeeze=False
    )
    for name, panel in zip(sets, panels.flat, strict=False):
        for contender, colour in COLOURS.items():
            groups = [same for key, same in grouped(cells).items() if key[0] == name and key[2] == contender]
            x = [statistics.median(cell.seconds for cell in same) / 60 for same in groups]
            y = [100 * statistics.fmean(cell.accuracy for cell in same) for same in groups]
            panel.plot(x, y, marker="o", color=colour, label=NAMES[contender])
            for minutes, same in zip(x, groups, strict=True):
                panel.scatter([minutes] * len(same), [100 * cell.accuracy for cell in same], color=colour, s=8)
        panel.set_title(name)
        panel.set_xlabel("minutes")
        panel.set_ylabel("test accuracy, %")
        panel.grid(alpha=0.3)
    for panel in list(panels.flat)[len(sets) :]:
        panel.axis("off")
    handles, names = panels.flat[0].get_legend_handles_labels()
    drawn.legend(handles, names, loc="lower center", ncols=4)
    drawn.tight_layout(rect=(0, 0.06, 1, 1))
    drawn.savefig(path, dpi=110)
    plt.close(drawn)
