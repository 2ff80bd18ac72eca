"""Opening a test set that was locked while recipes were compared: each opening is a look, and is counted."""

from typing import Any

from loupe.errors import LoupeError
from loupe.evaluate import metrics
from loupe.evaluate.predictions import read_splits, write_splits
from loupe.ledger import record_look
from loupe.report import page
from loupe.trained import Run, split_hash


def open_test(run: Run, data: Any = None) -> Run:
    """The run with its test images evaluated: in results.json, in predictions.csv and in the report.

    A run that has looked at them already is returned as it is.

    Args:
        data: the images again, where the run was trained on arrays.

    Raises:
        LoupeError: the run has no test images, or they cannot be found.
    """
    if run.results["test"] is not None:
        return run
    if not run.results["images"]["test"]:
        raise LoupeError(f"{run.path} has no test images to open.")
    stored = (run.directory.read_json("environment.json") or {}).get("data")
    predictions = run.predictions_of("test", data if stored is None else None)
    block = metrics.evaluate(predictions)
    file = run.directory.file("predictions.csv")
    write_splits(file, {**(read_splits(file) if file.is_file() else {}), "test": predictions})
    looks = record_look(run.path.parent, split_hash(predictions), run.directory.name)
    run.results = {**run.results, "test": block, "test_looks": looks}
    run.directory.write_json("results.json", run.results)
    page.write_page(run.path)
    return run
