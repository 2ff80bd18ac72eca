"""Opening a test set that was locked while recipes were compared: each opening is a look, and is counted."""

from typing import Any

from loupe.augment.pipeline import Augmenter
from loupe.errors import LoupeError
from loupe.evaluate import calibration, selective
from loupe.evaluate.predictions import read_splits, split_hash, write_splits
from loupe.exhibits import exhibits
from loupe.ledger import record_look
from loupe.report import gallery, page
from loupe.results import measured
from loupe.trained import Run


def open_test(run: Run, data: Any = None) -> Run:
    """The run with its test images evaluated: in results.json, in predictions.csv and in the report.

    A run that has looked at them already is returned as it is.

    Args:
        data: the images again, where the run was trained on arrays.

    Raises:
        LoupeError: the run has no test images, or they cannot be found; or another process is writing the run.
    """
    if run.results["test"] is not None:
        return run
    with run.directory.locked():
        run.results = run.directory.read_json("results.json") or run.results  # another process may have opened it
        return run if run.results["test"] is not None else _opened(run, data)


def _opened(run: Run, data: Any) -> Run:
    """The run, which is locked for other processes, with its test images evaluated now."""
    if not run.results["images"]["test"]:
        raise LoupeError(f"{run.path} has no test images to open.")
    images, split = run.own_images(data)
    test = run.predictions_for(images, split.test)
    file = run.directory.file("predictions.csv")
    parts = {**(read_splits(file) if file.is_file() else {}), "test": test}
    temperature = calibration.fit_temperature(parts["val"]) if "val" in parts else calibration.Temperature()
    if run.temperature != temperature.value:  # a run of before there were temperatures stays as it predicts
        temperature = calibration.Temperature(run.temperature, why="the run was made without one")
    found = {
        "test": measured(test, [images.table.groups[row] for row in split.test]),
        "calibration": calibration.report(temperature, parts),
        "selective": selective.report(temperature.value, parts),
        "test_looks": record_look(run.path.parent, split_hash(test), run.directory.name),
    }
    write_splits(file, {name: part.calibrated(temperature.value) for name, part in parts.items()})
    augmenter = Augmenter(run.recipe.stages[-1].augment, run.model.preprocessing, run.recipe.seed)
    pictures = exhibits(images, split.train, augmenter, test.calibrated(temperature.value), "test")
    gallery.write(run.directory.file("gallery.parquet"), pictures, temperature.value)
    run.results = {**run.results, **found}
    run.directory.write_json("results.json", run.results)
    page.write_page(run.path)
    return run
