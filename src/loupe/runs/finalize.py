"""What a run leaves when its training is over: evaluation, model, predictions, pictures, results and report."""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from loupe import rundir
from loupe.augment.pipeline import Augmenter
from loupe.config.network import BackboneSpec
from loupe.config.recipe import Preprocessing, Recipe
from loupe.data.pixels.prepare import Images
from loupe.data.splits import split as splits
from loupe.data.splits.split import Split
from loupe.errors import LoupeError, RunStateError
from loupe.evaluate import calibration, inference, metrics, selective
from loupe.evaluate.calibration import Temperature
from loupe.evaluate.groups import by_group
from loupe.evaluate.learning_curves import Diagnosis, diagnose
from loupe.evaluate.predictions import Predictions, read_splits, split_hash, write_splits
from loupe.evaluate.results import Evaluation, results_file, results_of
from loupe.log import command_line
from loupe.models import bundle
from loupe.models.classifier import Classifier
from loupe.models.pretrained import native_preprocessing
from loupe.provenance import environment_of
from loupe.report import gallery, run_page
from loupe.report.gallery_selection import exhibits
from loupe.rundir import RunDirectory, record_look
from loupe.runs import results
from loupe.runs.run import Run
from loupe.training.stage_data import StageDataBuilder
from loupe.training.train_state import TrainState

SPLITS = {"validation": "val", "test": "test"}  # as results.json calls them, and as predictions.csv does


@dataclass
class RunFinalizer:
    """Evaluates what a run has trained, and writes it; the test split only where it may be opened."""

    directory: RunDirectory
    recipe: Recipe
    images: Images
    split: Split
    open_test: bool

    def write(self, model: Classifier, preparation: StageDataBuilder, state: TrainState, load_seconds: float) -> None:
        """Everything but recipe, split and environment, which were there before.

        Args:
            model: with the weights that the run ends with; it is given its temperature.
            preparation: of the last stage, whose activations may serve once more.
            load_seconds: what came before the training.
        """
        began = time.perf_counter()
        self.directory.write_metrics(state.history)
        parts = self._predictions(model, preparation)
        temperature = calibration.fit_temperature(parts["val"]) if "val" in parts else Temperature()
        model.temperature = temperature.value
        test_hash = self._test_hash()
        looks = self._looks(test_hash, looked="test" in parts)
        bundle.save(self.directory.model, model, self.recipe.model, preparation.compute.precision)
        evaluations = write_evaluation(
            self.directory, self.recipe, model.preprocessing, self.images, self.split, parts, temperature
        )
        diagnosis = self._diagnose(state, evaluations["validation"], len(model.trunk))
        content = results.assemble(
            name=self.directory.name,
            recipe=self.recipe,
            images=self.images,
            split=self.split,
            model=model,
            preparation=preparation,
            state=state,
            split_hash=test_hash,
            evaluations=evaluations,
            calibration=calibration.report(temperature, parts),
            selective=selective.report(temperature.value, parts),
            test_looks=looks,
            load_seconds=load_seconds,
            evaluate_seconds=time.perf_counter() - began,
            diagnosis=diagnosis,
            next_command=self._next_command(diagnosis, model.preprocessing),
        )
        content.write(results_file(self.directory))
        run_page.write_page(self.directory.path)

    def _predictions(self, model: Classifier, preparation: StageDataBuilder) -> dict[str, Predictions]:
        """Of each split that may be looked at and is not empty."""
        source, first = preparation.evaluation()
        return {
            name: inference.predictions(model, source, self.images, rows_N, preparation.compute, first)
            for name, rows_N in self._rows().items()
            if len(rows_N)
        }

    def _rows(self) -> dict[str, np.ndarray]:
        return {"val": self.split.val, "test": self.split.test if self.open_test else self.split.test[:0]}

    def _test_hash(self) -> str | None:
        """Identifies the test images, also while they are locked."""
        if not len(self.split.test):
            return None
        table = self.images.table
        images = ((self.images.content[row], table.classes[table.labels[row]]) for row in self.split.test)
        return splits.digest(images)

    def _looks(self, test_hash: str | None, *, looked: bool) -> int:
        """How often the test images have been looked at in this runs folder, with this time if it is one."""
        runs = self.directory.path.parent
        if test_hash is None:
            return 0
        return (
            rundir.record_look(runs, test_hash, self.directory.name) if looked else rundir.count_looks(runs, test_hash)
        )

    def _diagnose(self, state: TrainState, validation: Evaluation | None, blocks: int) -> Diagnosis:
        supports = [row.support for row in validation.per_class] if validation else []
        commonest = max(supports) / sum(supports) if supports else None
        return diagnose(state.history, self.recipe, commonest=commonest, images=sum(supports), blocks=blocks)

    def _next_command(self, diagnosis: Diagnosis, preprocessing: Preprocessing) -> str | None:
        """What the diagnosis recommends, to be typed as it stands: this run's recipe with changes, or another one."""
        data = environment_of(self.directory).data or "DATA"
        changes = [part for setting in diagnosis.settings for part in ("--set", setting)]
        if changes:
            return command_line(["loupe", "train", data, "--recipe", str(self.directory.file("recipe.yaml")), *changes])
        network = self.recipe.model
        if diagnosis.recipe is None or not isinstance(network, BackboneSpec):
            return None
        pixels = [part for text in input_settings(network, preprocessing) for part in ("--set", text)]
        start = ["--model", network.backbone, "--weights", network.weights]
        return command_line(["loupe", "train", data, "--recipe", diagnosis.recipe, *start, *pixels])


def input_settings(network: BackboneSpec, preprocessing: Preprocessing) -> list[str]:
    """Settings that prepare pixels as they were, where the backbone alone would not say so."""
    mine, own = preprocessing.model_dump(mode="json"), dict[str, Any]()
    with suppress(LoupeError):  # what lies beside the weights may be gone by now: then all is said
        own = native_preprocessing(network).model_dump(mode="json")
    other = {name for name, value in mine.items() if name not in own or value != own[name]}
    if "size_px" in other:
        other.add("load_px")  # which otherwise grows with it
    return [f"input.{name}={str(value).replace(' ', '')}" for name, value in mine.items() if name in other]


def write_evaluation(
    directory: RunDirectory,
    recipe: Recipe,
    preprocessing: Preprocessing,
    images: Images,
    split: Split,
    parts: Mapping[str, Predictions],
    temperature: Temperature,
) -> dict[str, Evaluation | None]:
    """Writes predictions.csv and the pictures of the report, both with calibrated probabilities.

    Args:
        parts: the predictions of each split that may be looked at and is not empty, as predictions.csv calls it.

    Returns:
        the metrics of each split, of the logits as they are, as results.json calls it; None where there are none.
    """
    if parts:
        calibrated = {name: part.calibrated(temperature.value) for name, part in parts.items()}
        write_splits(directory.file("predictions.csv"), calibrated)
        shown = "test" if "test" in calibrated else "val"
        augmenter = Augmenter(recipe.stages[-1].augment, preprocessing, recipe.seed)
        pictures = exhibits(images, split.train, augmenter, calibrated[shown], shown)
        gallery.write(directory.file("gallery.parquet"), pictures, temperature.value)
    return {
        name: _measured(parts[split_name], images, split.rows(split_name)) if split_name in parts else None
        for name, split_name in SPLITS.items()
    }


def _measured(part: Predictions, images: Images, rows_N: np.ndarray) -> Evaluation:
    groups = images.table.groups
    return metrics.evaluate(part).model_copy(update={"per_group": by_group(part, [groups[row] for row in rows_N])})


def open_test(run: Run, data: Any = None) -> Run:
    """The run with its test images evaluated: in results.json, in predictions.csv and in the report.

    A run that has looked at them already is returned as it is.

    Args:
        data: the images again, where the run was trained on arrays.

    Raises:
        LoupeError: the run has no test images, or they cannot be found; or another process is writing the run.
    """
    if run.results.test is not None:
        return run
    with run.directory.locked():
        run.results = results_of(run.directory) or run.results  # another process may have opened it
        return run if run.results.test is not None else _opened(run, data)


def _opened(run: Run, data: Any) -> Run:
    """The run, which is locked for other processes, with its test images evaluated now."""
    if not run.results.images.test:
        raise RunStateError(f"{run.path} has no test images to open.")
    images, split = run.own_images(data)
    test = run.predictions_for(images, split.test)
    file = run.directory.file("predictions.csv")
    parts = {**(read_splits(file) if file.is_file() else {}), "test": test}
    temperature = calibration.fit_temperature(parts["val"]) if "val" in parts else Temperature()
    if run.temperature != temperature.value:  # a run of before there were temperatures stays as it predicts
        temperature = Temperature(run.temperature, why="the run was made without one")
    looks = record_look(run.path.parent, split_hash(test), run.directory.name)
    evaluations = write_evaluation(
        run.directory, run.recipe, run.model.preprocessing, images, split, parts, temperature
    )
    run.results = run.results.model_copy(
        update={
            "test": evaluations["test"],
            "calibration": calibration.report(temperature, parts),
            "selective": selective.report(temperature.value, parts),
            "test_looks": looks,
        }
    )
    run.results.write(results_file(run.directory))
    run_page.write_page(run.path)
    return run
