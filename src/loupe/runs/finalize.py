"""End of a run: evaluation, model, predictions, pictures, results and report; and evaluation of test images later."""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from loupe import rundir
from loupe.augment.pipeline import Augmenter
from loupe.cache import cache_folder
from loupe.config.network import BackboneSpec, CnnSpec
from loupe.config.recipe import AugmentSpec, Preprocessing, Recipe
from loupe.data.pixels.prepare import Images
from loupe.data.splits import split as splits
from loupe.data.splits.split import Split
from loupe.errors import LoupeError, RunStateError
from loupe.evaluate import calibration, inference, metrics, selective
from loupe.evaluate.calibration import Temperature
from loupe.evaluate.chance import LabelCounts, association
from loupe.evaluate.engine_predictions import predict_rows
from loupe.evaluate.groups import by_group
from loupe.evaluate.learning_curves import diagnose
from loupe.evaluate.predictions import Predictions, join, read_splits, split_hash, write_splits
from loupe.evaluate.results import DiagnosisResult, Evaluation, RunResults, results_file, results_of
from loupe.evaluate.verdicts import Diagnosis
from loupe.log import command_line, logger
from loupe.models import bundle
from loupe.models.bundle import ConvertedNetwork
from loupe.models.classifier import Classifier
from loupe.models.engine_choice import choose_engine
from loupe.models.openvino_network import OpenVinoNetwork
from loupe.models.pretrained import native_preprocessing
from loupe.provenance import environment_of
from loupe.ranks import Ranks, current
from loupe.report import gallery, run_page
from loupe.report.gallery_selection import exhibits
from loupe.rundir import RunDirectory, record_look
from loupe.runs import results
from loupe.runs.folds import HeadFolds, evaluation, fit_temperature
from loupe.runs.results import Evaluated, Trained
from loupe.runs.run import Run
from loupe.training.stage_data import StageDataBuilder
from loupe.training.train_state import TrainState

SPLITS = {"validation": "val", "test": "test"}  # names in results.json, and in predictions.csv


@dataclass
class RunFinalizer:
    """Evaluates the trained network of a run and writes the results; the test split only with `open_test`.

    Predictions are shared out over the ranks. Rank 0 alone measures and writes, and the others wait for it.
    """

    directory: RunDirectory
    recipe: Recipe
    images: Images
    split: Split
    open_test: bool
    ranks: Ranks

    def write(
        self,
        model: Classifier,
        preparation: StageDataBuilder,
        state: TrainState,
        load_seconds: float,
        folds: HeadFolds | None = None,
    ) -> None:
        """Write everything but recipe, split and environment, which are there already.

        Args:
            model: network with its final weights; its temperature is set here, on rank 0.
            preparation: data of the last stage, whose activations are used again where possible.
            state: state of the training at its end.
            load_seconds: time before the training.
            folds: out-of-fold predictions of the head, if there are some.
        """
        began = time.perf_counter()
        if state.history:  # a blend or an average of weights has none
            self.ranks.from_main(lambda: self.directory.write_metrics(state.history))
        predictions, converted = self._predictions(model, preparation)
        self.ranks.from_main(
            lambda: self._write(model, preparation, state, load_seconds, began, predictions, converted, folds)
        )

    def _write(
        self,
        model: Classifier,
        preparation: StageDataBuilder,
        state: TrainState,
        load_seconds: float,
        began: float,
        predictions: Mapping[str, Predictions],
        converted: ConvertedNetwork | None,
        folds: HeadFolds | None,
    ) -> None:
        """Write the model, the evaluation, the results and the report; arguments as for `write`.

        Args:
            began: start of the evaluation on the clock.
            predictions: predictions of each split.
            converted: network for the engine of predictions.
        """
        of_folds = {} if folds is None else folds.predictions(self.images, self.split, model.classes)
        if folds is not None and folds.refit:  # it has learned from the validation images
            predictions = {**predictions, "val": of_folds["val"]}
        temperature, fitted_on = fit_temperature(self.recipe, predictions, of_folds)
        model.temperature = temperature.value
        test_hash = self._test_hash()
        looks = self._record_look(test_hash, evaluated="test" in predictions)
        bundle.save(self.directory.model, model, self.recipe.model, preparation.compute.precision, converted)
        evaluations = write_evaluation(
            self.directory, self.recipe, model.preprocessing, self.images, self.split, predictions, temperature
        )
        if of_folds:
            calibrated = {name: one.calibrated(temperature.value) for name, one in of_folds.items()}
            write_splits(self.directory.fold_predictions, calibrated)
        more = {}
        if folds is not None:
            rows_N = np.concatenate([self.split.rows(name) for name in of_folds])
            more = evaluation(folds, of_folds, _measured(join([*of_folds.values()]), self.images, rows_N))
        environment = environment_of(self.directory)
        content = results.assemble(
            name=self.directory.name,
            recipe=self.recipe,
            images=self.images,
            split=self.split,
            trained=Trained(model, preparation, state, load_seconds, time.perf_counter() - began),
            evaluated=Evaluated(
                split_hash=test_hash,
                evaluations=evaluations,
                calibration=calibration.report(temperature, predictions, fitted_on),
                selective=selective.report(temperature.value, predictions),
                test_looks=looks,
                **more,
            ),
            diagnosis=self._diagnosis(model, state, evaluations["validation"]) if state.history else None,
            parent=environment.parent,
            made_of=environment.made_of,
        )
        content.write(results_file(self.directory))
        run_page.write_page(self.directory.path)

    def _predictions(
        self, model: Classifier, preparation: StageDataBuilder
    ) -> tuple[dict[str, Predictions], ConvertedNetwork | None]:
        """Predictions for each split that is to be evaluated and is not empty; and the network for their engine.

        Rank 0 has all predictions.

        Validation images are predicted in PyTorch, with which the engine is compared, or from outputs of frozen blocks;
        test images of networks of Loupe in PyTorch too, so that their figures are those of runs without an engine.
        """
        source, first_block = preparation.evaluation()
        rows = {name: rows_N for name, rows_N in self._rows().items() if len(rows_N)}
        predictions: dict[str, Predictions] = {}
        converted = None
        for name, rows_N in rows.items():
            if converted is not None and first_block == 0 and not isinstance(self.recipe.model, CnnSpec):
                engine = OpenVinoNetwork(converted.files, converted.engine.precision)
                labels_N = self.images.table.labels
                predictions[name] = predict_rows(engine, self.images, rows_N, labels_N, model.classes, ranks=self.ranks)
                continue
            predictions[name] = inference.predictions(
                model, source, self.images, rows_N, preparation.compute, first_block, ranks=self.ranks
            )
            if name == "val":
                converted = self._choose_engine(model, preparation, predictions[name], in_torch=first_block == 0)
        return predictions, converted

    def _choose_engine(
        self, model: Classifier, preparation: StageDataBuilder, validation: Predictions, in_torch: bool
    ) -> ConvertedNetwork | None:
        """Network for the engine that predicts with this model, if it is another than PyTorch; chosen by rank 0."""
        in_fp32 = in_torch or preparation.frozen_compute.precision == "fp32"
        chosen, reason = self.ranks.from_main(
            lambda: choose_engine(
                model,
                self.recipe.model,
                preparation.compute,
                read=self.images.store.read,
                row_N=self.split.val,
                evaluated_NK=validation.logits_NK if in_fp32 else None,
                in_torch=in_torch,
                cache=cache_folder() / "models",
            )
        )
        if reason:
            logger.info(f"predictions will run in PyTorch: {reason}.")
        return chosen

    def _rows(self) -> dict[str, np.ndarray]:
        return {"val": self.split.val, "test": self.split.test if self.open_test else self.split.test[:0]}

    def _test_hash(self) -> str | None:
        """Hash of the test images, even if they are not evaluated."""
        if not len(self.split.test):
            return None
        table = self.images.table
        images = ((self.images.content[row], table.classes[table.labels[row]]) for row in self.split.test)
        return splits.digest(images)

    def _record_look(self, test_hash: str | None, *, evaluated: bool) -> int:
        """Record the test-set evaluation, if this is one, and count those in the runs folder."""
        runs = self.directory.path.parent
        if test_hash is None:
            return 0
        if not evaluated:
            return rundir.count_looks(runs, test_hash)
        return rundir.record_look(runs, test_hash, self.directory.name)

    def _diagnosis(self, model: Classifier, state: TrainState, validation: Evaluation | None) -> DiagnosisResult:
        diagnosis = self._diagnose(state, validation, len(model.trunk))
        return DiagnosisResult(
            verdict=diagnosis.verdict,
            epoch=diagnosis.epoch,
            text=diagnosis.text,
            settings=tuple(diagnosis.settings),
            next=self._next_command(diagnosis, model.preprocessing),
        )

    def _diagnose(self, state: TrainState, validation: Evaluation | None, blocks: int) -> Diagnosis:
        train_K = np.bincount(self.images.table.labels[self.split.train])
        supports = [row.support for row in validation.per_class] if validation else []
        return diagnose(
            state.history,
            self.recipe,
            training=LabelCounts(int(train_K.sum()), int(train_K.max()), rarest=int(train_K[train_K > 0].min())),
            validation=LabelCounts(sum(supports), max(supports), association(validation.confusion_matrix))
            if validation and sum(supports)
            else None,
            blocks=blocks,
            kept_epoch=results.kept_epoch(self.recipe, state),
        )

    def _next_command(self, diagnosis: Diagnosis, preprocessing: Preprocessing) -> str | None:
        """Command that the diagnosis recommends: this run's recipe with changes, or another recipe."""
        environment = environment_of(self.directory)
        data = [environment.data_word, *environment.read_words]
        changes = [part for setting in diagnosis.settings for part in ("--set", setting)]
        if changes:
            return command_line(
                ["loupe", "train", *data, "--recipe", str(self.directory.file("recipe.yaml")), *changes]
            )
        network = self.recipe.model
        if diagnosis.recipe is None or not isinstance(network, BackboneSpec):
            return None
        pixels = [part for text in input_settings(network, preprocessing) for part in ("--set", text)]
        start = ["--model", network.backbone, "--weights", network.weights]
        return command_line(["loupe", "train", *data, "--recipe", diagnosis.recipe, *start, *pixels])


def input_settings(network: BackboneSpec, preprocessing: Preprocessing) -> list[str]:
    """Settings of the preprocessing that differ from those of the backbone."""
    mine, own = preprocessing.model_dump(mode="json"), dict[str, Any]()
    with suppress(LoupeError):  # the config beside the weights may be gone: then all are given
        if native := native_preprocessing(network):
            own = native.model_dump(mode="json")
    other = {name for name, value in mine.items() if name not in own or value != own[name]}
    if "size_px" in other:
        other.add("load_px")  # otherwise it would be scaled with size_px
    told = {name: value for name, value in mine.items() if name in other and value is not None}
    return [f"input.{name}={str(value).replace(' ', '')}" for name, value in told.items()]


def write_evaluation(
    directory: RunDirectory,
    recipe: Recipe,
    preprocessing: Preprocessing,
    images: Images,
    split: Split,
    predictions: Mapping[str, Predictions],
    temperature: Temperature,
) -> dict[str, Evaluation | None]:
    """Write predictions.csv and the pictures of the report, both with calibrated probabilities.

    Args:
        predictions: uncalibrated predictions for each evaluated split, by its name in predictions.csv.

    Returns:
        uncalibrated metrics of each split, by its name in results.json; None for a split that is not evaluated.
    """
    if predictions:
        calibrated = {name: one.calibrated(temperature.value) for name, one in predictions.items()}
        write_splits(directory.file("predictions.csv"), calibrated)
        shown = "test" if "test" in calibrated else "val"
        augment = recipe.stages[-1].augment if recipe.stages else AugmentSpec()  # a blend has no stages
        augmenter = Augmenter(augment, preprocessing, recipe.seed)
        pictures = exhibits(images, split.train, augmenter, calibrated[shown], shown)
        gallery.write(directory.file("gallery.parquet"), pictures, temperature.value)
    return {
        name: _measured(predictions[split_name], images, split.rows(split_name)) if split_name in predictions else None
        for name, split_name in SPLITS.items()
    }


def _measured(predictions: Predictions, images: Images, rows_N: np.ndarray) -> Evaluation:
    groups = by_group(predictions, [images.table.groups[row] for row in rows_N])
    return metrics.evaluate(predictions).model_copy(update={"per_group": groups})


def open_test(run: Run, data: Any = None) -> Run:
    """Evaluate the test images of a run, and write results.json, predictions.csv and the report again.

    A run with evaluated test images is returned unchanged.

    Args:
        run: finished run.
        data: images, if the run was trained on arrays.

    Raises:
        RunStateError: the run has no test images, or another process is writing it.
        DataError: its images are missing or have changed.
    """
    if run.results.test is not None:
        return run
    ranks = current()
    with run.directory.locked():
        # Another process may have done it.
        run.results = ranks.from_main(lambda: results_of(run.directory)) or run.results
        return run if run.results.test is not None else _evaluate_test(run, data, ranks)


def _evaluate_test(run: Run, data: Any, ranks: Ranks) -> Run:
    """Evaluate the test images of a run that is locked for other processes; rank 0 writes."""
    if not run.results.images.test:
        raise RunStateError(f"{run.path} has no test images to evaluate.")
    images, split = run.own_images(data)
    test = run.predictions_for(images, split.test, in_torch=isinstance(run.recipe.model, CnnSpec))
    run.results = ranks.from_main(lambda: _write_test(run, images, split, test))
    return run


def _write_test(run: Run, images: Images, split: Split, test: Predictions) -> RunResults:
    """Write the files of a run whose test images have been predicted, and return its results."""
    file, fold_file = run.directory.file("predictions.csv"), run.directory.fold_predictions
    predictions = {**(read_splits(file) if file.is_file() else {}), "test": test}
    of_folds = read_splits(fold_file) if fold_file.is_file() else {}
    temperature, fitted_on = fit_temperature(run.recipe, predictions, of_folds)
    if run.temperature != temperature.value:  # a run of an older version, without temperature, keeps its predictions
        temperature = Temperature(run.temperature, why="the run was made without calibration")
    looks = record_look(run.path.parent, split_hash(test), run.directory.name)
    evaluations = write_evaluation(
        run.directory, run.recipe, run.preprocessing, images, split, predictions, temperature
    )
    written = run.results.model_copy(
        update={
            "test": evaluations["test"],
            "calibration": calibration.report(temperature, predictions, fitted_on),
            "selective": selective.report(temperature.value, predictions),
            "test_looks": looks,
        }
    )
    written.write(results_file(run.directory))
    run_page.write_page(run.path)
    return written
