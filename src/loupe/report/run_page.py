"""The page of a run: one HTML file that needs no network and no server, made from the run directory alone.

It reads whole without its scripts: they open the pictures of a cell beside the confusion matrix, sort and filter the
missed images, and copy commands.
"""

from pathlib import Path
from typing import Any

from markupsafe import escape

from loupe.errors import RunStateError
from loupe.files import write_atomic
from loupe.log import command_line
from loupe.report import confidence, content, figures, gallery, pictures, texts
from loupe.report.receipt import receipt, repeat_command
from loupe.report.template import render
from loupe.rundir import RunDirectory

SCHEMA = 1
NOTEBOOK_PX = 800  # the height of a cell; what is longer scrolls
FIRST_MISSED = 24  # missed images that stand open; the others are one click away
STYLES = ("pictures.css",)
SCRIPTS = ("matrix.js", "missed.js", "copy.js")


def write_page(run_dir: Path) -> Path:
    """Write `report.html` into a run directory, from whatever files the run has so far, and return its path.

    LoupeError where the folder is no run, or one of its files is damaged or of another version.
    """
    run = RunDirectory(run_dir)
    if not run.file("recipe.yaml").is_file():
        raise RunStateError(f"{run_dir} is not a run: it has no recipe.yaml. Runs are made by: loupe train DATA")
    path = run.file("report.html")
    write_atomic(path, render("report.html", _gather(run), styles=STYLES, scripts=SCRIPTS))
    return path


def in_notebook(run_dir: Path) -> str:
    """A run's result, metrics and learning curves as HTML for a cell of a notebook, in a frame of their own."""
    whole = render("notebook.html", _gather(RunDirectory(run_dir)))
    frame = f'<iframe title="Loupe" sandbox srcdoc="{escape(whole)}" width="100%" height="{NOTEBOOK_PX}"'
    return f'{frame} style="border: 0"></iframe>'


def _gather(run: RunDirectory) -> dict[str, Any]:
    """Everything that the template names, from the run's files."""
    results = run.read_json("results.json")
    history = content.read_history(run.file("metrics.csv"))
    environment = run.read_json("environment.json")
    shown: dict[str, Any] = {
        "name": run.path.resolve().name,
        "results": results,
        "history": history,
        "curves": content.curves(history, (results or {}).get("best_epoch")) if history else [],
        "gallery": pictures.read_gallery(run.file("gallery.parquet")),
        "calibrated": gallery.temperature(run.file("gallery.parquet")) != 1,
        "first_missed": FIRST_MISSED,
        "limit_bytes": gallery.PAGE_BYTES,
        "recipe": run.file("recipe.yaml").read_text(encoding="utf-8"),
        "environment": environment,
        "command": command_line(environment["command"]) if environment else None,
        "repeat": repeat_command(run.path, environment) if environment else None,
        "part": None,
        "confidence": None,
        "piles": {},
        "missed": None,
    }
    if results is None:
        return shown | {"receipt": receipt(None, environment)}
    if results.get("schema") != SCHEMA:
        raise RunStateError(
            f"{run.file('results.json')}: schema {results.get('schema')} is not the one this Loupe reads ({SCHEMA}); "
            "use the version that wrote it."
        )
    try:
        shown |= _from_results(results, shown["gallery"])
        return shown | {"receipt": receipt(results, environment)}
    except (LookupError, TypeError, ValueError, ZeroDivisionError) as error:
        raise RunStateError(
            f"{run.file('results.json')}: incomplete or damaged ({error!r}). Restore it, or train again."
        ) from None


def _from_results(results: dict[str, Any], kept: pictures.Gallery) -> dict[str, Any]:
    """What follows from results.json: headline, metrics, matrix, sizes and times. The test counts where it was made."""
    classes: list[str] = results["classes"]
    part = next((part for part in ("test", "validation") if (results.get(part) or {}).get("images")), None)
    block = results[part] if part else None
    piles = pictures.piles(kept, block, classes) if block else {}
    seconds = {name: results["seconds"].get(key) for name, key in SECONDS.items()}
    seconds = {
        name: value for name, value in seconds.items() if value is not None and (value or name != "frozen blocks")
    }
    images = {SPLITS[split]: number for split, number in results["images"].items()}
    return {
        "part": part,
        "block": block,
        "commonest": max(row["support"] for row in block["per_class"]) / block["images"] if block else None,
        "metrics": list(content.metric_rows(results)),
        "matrix": content.matrix(block, classes, piles) if block else None,
        "confusions": content.confusions(block, classes, piles) if block else [],
        "missed": sum(map(sum, block["confusion_matrix"])) - _hits(block) if block else None,
        "confidence": confidence.shown(results),
        "piles": piles,
        "reading_order": list(pictures.in_reading_order(piles)),
        "truths": sorted({pile.truth for pile in piles.values() if not pile.hit}),
        "guesses": sorted({pile.guess for pile in piles.values() if not pile.hit}),
        "splits": content.bar_drawing("Images", images, [f"{number:,}" for number in images.values()], figures.FIRST),
        "times": content.bar_drawing(
            "Time", seconds, [texts.duration(value) for value in seconds.values()], figures.SECOND
        ),
    }


def _hits(block: dict[str, Any]) -> int:
    return sum(row[index] for index, row in enumerate(block["confusion_matrix"]))


SPLITS = {"train": "training", "val": "validation", "test": "test"}
SECONDS = {
    "loading": "load",
    "frozen blocks": "frozen",
    "training": "train",
    "evaluation": "evaluate",
    "total": "total",
}
