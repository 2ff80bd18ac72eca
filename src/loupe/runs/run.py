"""Finished run: predicts, evaluates and explains, on its own images or others."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loupe.config.recipe import Preprocessing
from loupe.config.resolved import ResolvedRecipe
from loupe.data.class_names import index_of, same_form
from loupe.data.dataset import Dataset, is_gone, open_dataset
from loupe.data.pixels.prepare import Images
from loupe.data.sources.inference_inputs import Pictures, table_of
from loupe.data.sources.read_options import ColumnNames, ReadOptions
from loupe.data.splits import split as splits
from loupe.data.splits import split_file
from loupe.data.table import ImageTable, match_classes
from loupe.errors import ConfigError, DataError, RunStateError, counted, memory_remedy, sentences, unknown_name
from loupe.evaluate.predictions import UNKNOWN, Predictions, join, read_splits, split_hash
from loupe.evaluate.results import Calibrated, Evaluation, results_of
from loupe.log import logger, progress_bar, terminal
from loupe.provenance import check_credentials, check_split, check_versions, environment_of
from loupe.ranks import current
from loupe.rundir import RunDirectory, count_looks, record_look
from loupe.runs.predictor import MEMORY_REMEDY, Predictor
from loupe.runs.run_displays import RunDisplays

if TYPE_CHECKING:
    from loupe.evaluate.selective import Threshold
    from loupe.explain.filters import AscentSettings
    from loupe.notebook.class_counts import ClassCounts
    from loupe.notebook.display import Display
    from loupe.notebook.explanations import Explanations, FilterResponses


class Run(RunDisplays, Predictor):
    """Finished run: files, results and classifier.

    In the processes of one command (`loupe.ranks`), call its methods on every rank, with the same arguments, and use up
    `stream` on every rank. `predict`, `predict_proba`, `predictions`, `stream`, `evaluate` and `predictions_of` share
    out their images. All ranks get the same, and rank 0 alone records an evaluation of test images.

    Attributes:
        directory: files of the run.
        results: content of results.json; `results.to_json()` is plain data.
        verify: hash every image anew, without remembered hashes.
        tta: name of the test-time augmentation of everything that is predicted, if any.
    """

    def __init__(
        self,
        directory: RunDirectory,
        *,
        device: str = "auto",
        quiet: bool = True,
        verify: bool = False,
        tta: str | None = None,
    ) -> None:
        results = results_of(directory)
        if results is None:
            raise RunStateError(f"{directory.path} is not finished. Resume with: {directory.resume_command}")
        super().__init__(directory.model, device=device, quiet=quiet, tta=tta)
        self.directory = directory
        self.results = results
        self.verify = verify

    def __repr__(self) -> str:
        return f"Run({str(self.directory.path)!r})"

    @property
    def path(self) -> Path:
        return self.directory.path

    @property
    def classes(self) -> tuple[str, ...]:
        return self.results.classes

    @cached_property
    def recipe(self) -> ResolvedRecipe:
        return ResolvedRecipe.of(self.directory.read_recipe())

    def threshold_for(self, precision: float) -> "Threshold":
        """Lowest threshold of the calibrated probability that guarantees a precision, from the validation images.

        The module `evaluate.selective` defines the guarantee.

        Raises:
            RunStateError: the run has no predictions of validation images.
            ConfigError: that precision cannot be guaranteed; the message has the highest possible.
        """
        from loupe.evaluate import selective

        file = self.directory.file("predictions.csv")
        validation = (read_splits(file) if file.is_file() else {}).get("val")
        if validation is None:
            raise RunStateError(
                f"{self.path} has no predictions of validation images, which --wanted-precision needs. Give "
                "--threshold."
            )
        threshold = selective.threshold_for(validation, precision, self.temperature)
        if threshold is None:
            highest = selective.highest_precision(validation, self.temperature)
            why = selective.unreachable(len(validation), precision)
            most = f"Give at most {highest:g}, validate" if highest else "Validate"
            raise ConfigError(
                f"precision {precision:g} cannot be guaranteed: {why}. {most} on more images, or give --threshold."
            )
        return threshold

    def evaluate(
        self,
        split: str = "val",
        data: Any = None,
        *,
        columns: ColumnNames | None = None,
        images: str | Path | None = None,
        follow_links: bool = False,
        skip_damaged: bool = False,
    ) -> Evaluation:
        """Evaluate one split of the run's data, or other data; metrics as in results.json.

        Metrics are uncalibrated; `calibrated` has log loss and calibration error at the temperature. Classes are
        matched by name. An evaluation of test images is recorded in the runs folder; `test_looks` counts them.

        Args:
            split: train, val or test.
            data: other images with labels. If they have splits, `split` is evaluated, else all. Images of the run
                itself are recognised by content and keep its split, so that no training image counts as a validation or
                test image; their number is logged.
            skip_damaged: leave damaged images out, instead of stopping.

            columns, images, follow_links: of other data, as for `loupe.train`; unless given, the columns of the run.

        Returns:
            Metrics. Of the validation images of a refitted run, which its head has learned from: those of the folds.

        Raises:
            ConfigError: the split is unknown, or the folds were predicted without the test-time augmentation.
            DataError: there are no such images, or one has a class that the model lacks.
        """
        if data is None and split == "val" and self.results.refit:
            return self._fold_evaluation()
        predictions = self.predictions_of(
            split, data, columns=columns, images=images, follow_links=follow_links, skip_damaged=skip_damaged
        )
        return current().from_main(lambda: self._evaluation(predictions, split))

    def _evaluation(self, predictions: Predictions, split: str) -> Evaluation:
        """Metrics of predictions; an evaluation of test images is recorded."""
        from loupe.evaluate import metrics

        calibrated = self._calibrated(predictions)
        block = metrics.evaluate(predictions).model_copy(update={"calibrated": calibrated, "tta": self.tta})
        identity = self._identity(predictions, split)
        if split == "test" or count_looks(self.path.parent, identity):  # a test set may come as data of its own
            looks = record_look(self.path.parent, identity, self.directory.name)
            block = block.model_copy(update={"test_looks": looks})
        return block

    def _fold_evaluation(self) -> Evaluation:
        """Out-of-fold metrics of a refitted run, as in its results."""
        assert self.results.folds
        if self.tta is not None:
            raise ConfigError(
                f"the head of {self.path} learned from its validation images, and its folds were predicted without "
                "test-time augmentation. Leave it out, or choose --split test or other --data."
            )
        predictions = join([*read_splits(self.directory.fold_predictions).values()])
        return self.results.folds.model_copy(update={"calibrated": self._calibrated(predictions)})

    def predictions_of(
        self,
        split: str,
        data: Any = None,
        *,
        columns: ColumnNames | None = None,
        images: str | Path | None = None,
        follow_links: bool = False,
        skip_damaged: bool = False,
    ) -> Predictions:
        """Predict one split of the run's data, or other data, without recording a test-set evaluation.

        Args:
            split, data, columns, images, follow_links, skip_damaged: as for `evaluate`.

        Raises:
            LoupeError: as for `evaluate`.
        """
        if split not in splits.SPLITS:
            raise unknown_name("split", split, splits.SPLITS)
        if data is None and split == "val" and self.results.refit:
            raise RunStateError(
                f"the head of {self.path} learned from its validation images (refit). Their out-of-fold predictions "
                f"are in {self.directory.fold_predictions}. Choose split test, or other data."
            )
        if data is None:
            own, parts = self.own_images()
            return _some(self.predictions_for(own, parts.rows(split)), split)
        options = self.read_options(columns, images, follow_links)
        with terminal(quiet=self.quiet):
            dataset = open_dataset(data, options, announce=False, verify=self.verify)
        others = self._open(dataset, skip_damaged)
        rows_N, remark = self._rows_to_evaluate(others, split)
        label_N = match_classes(others.table, self.classes)
        return _some(self._predict(others, rows_N, label_N), split, remark)

    def read_options(
        self, columns: ColumnNames | None = None, images: str | Path | None = None, follow_links: bool = False
    ) -> ReadOptions:
        """Options to read other data; unless columns are given, those of the run's own, as far as a list has them."""
        if columns:
            return ReadOptions.of(columns, images, follow_links)
        return environment_of(self.directory).read_options_of_others(images, follow_links=follow_links)

    def own_images(
        self, data: Any = None, *, preprocessing: Preprocessing | None = None
    ) -> tuple[Images, splits.Split]:
        """Open the images of the run, and its split.

        Args:
            data: images, if the run was trained on arrays.
            preprocessing: of another network that is to see them; None for that of the run.

        Raises:
            DataError: they are missing or have changed.
        """
        check_split(self.directory)
        images = self._open(self._own_dataset(data), bool(self.results.damaged), preprocessing=preprocessing)
        images = replace(images, table=images.table.with_classes(self.classes))  # in the order of the network
        return images, split_file.read(self.directory.file("split.csv"), images.table, images.content)

    def predictions_for(self, images: Images, rows_N: np.ndarray, *, in_torch: bool = False) -> Predictions:
        """Predict some rows of the run's own images, with its engine or in PyTorch."""
        return self._predict(images, rows_N, images.table.labels, in_torch=in_torch)

    def show(
        self,
        images: Pictures | None = None,
        *,
        labels: Sequence[str | None] | None = None,
        split: str = "val",
        count: int = 12,
        seed: int = 0,
        follow_links: bool = False,
    ) -> "Display":
        """Show images with their predicted classes and the probabilities of the most probable ones.

        Args:
            images: as for `predict`; None for `count` images of the run's own `split`, in which the classes take turns.
                Those of the test split are recorded as a test-set evaluation.
            labels: true class of each of the `images`, None where it is not known.
            split: split of the run's own images.
            count: number of its own images, from 1 to 200.
            seed: random seed for the run's own images.
            follow_links: follow links out of the folders in `images`.

        Raises:
            ConfigError: a label or an option is unknown or out of range.
            DataError: the images are missing, more than 200, or damaged.
            RunStateError: the run has no predictions of the split.
        """
        from loupe.notebook import predictions as display
        from loupe.notebook.data import check_whole
        from loupe.report.sampling import in_turn

        check_whole("count", count, 1, display.MOST_IMAGES)
        check_whole("seed", seed, 0, 2**63 - 1)
        if images is None:
            if labels is not None:
                raise ConfigError("labels are of images that are given, and the run's own have labels. Leave them out.")
            stored = self._stored(split)
            chosen = stored.select(in_turn(stored.label, self.classes, seed, count))
            table, label_N, name = self._own_rows(chosen), chosen.label, f"{self.directory.name}: {split} images"
        else:
            table, name = table_of(images, follow_links=follow_links), f"{self.directory.name}: predictions"
            if len(table) > display.MOST_IMAGES:
                raise DataError(
                    f"images: {len(table):,} are given; at most {display.MOST_IMAGES} can be shown. Give fewer, or use "
                    "predict."
                )
            given = [None] * len(table) if labels is None else labels
            label_N = display.labels_of(given, self.classes, len(table))
            chosen = self.predictions(table).calibrated(self.temperature)
        return display.show_predictions(name, table, chosen, label_N, calibrated=self.temperature != 1)

    def class_counts(
        self,
        images: Pictures | None = None,
        *,
        threshold: float = 0.0,
        split: str = "val",
        count: int = 6,
        follow_links: bool = False,
        skip_damaged: bool = False,
    ) -> "ClassCounts":
        """Count the images of each predicted class, and those that stay unclassified.

        Args:
            images: as for `predict`; None for all images of the run's own `split`. Those of the test split are recorded
                as a test-set evaluation.
            threshold: calibrated probability below which an image is `unclassified`, such as that of `threshold_for`.
            split: split of the run's own images. Their labels tell how many are classified correctly.
            count: number of images to show, from 0 to 200: the least certain ones.
            follow_links: follow links out of the folders in `images`.
            skip_damaged: leave damaged images out, instead of stopping.

        Raises:
            ConfigError: an option is out of range, or a class has the name `unclassified`.
            DataError: the images are missing or damaged.
            RunStateError: the run has no predictions of the split.

        Returns:
            Dictionary of the numbers by class, `unclassified` last, which a notebook shows.
        """
        from loupe.notebook import class_counts as counts
        from loupe.notebook.data import check_whole
        from loupe.notebook.predictions import MOST_IMAGES

        check_whole("count", count, 0, MOST_IMAGES)
        counts.check_usable(threshold, self.classes)
        if images is None:
            chosen, name = self._stored(split), f"{self.directory.name}: {split} images"
            table = None
        else:
            table, name = table_of(images, follow_links=follow_links), f"{self.directory.name}: predictions"
            known = self.predictions(table, skip_damaged=skip_damaged).calibrated(self.temperature)
            chosen = replace(known, label=np.full(len(known), UNKNOWN, np.int64))
        doubtful = chosen.select(counts.least_certain(chosen, count))
        if table is None:
            pictures = self._own_rows(doubtful)
        else:
            row_of = {path: row for row, path in enumerate(table.paths)}
            pictures = table.select([row_of[path] for path in doubtful.path])
        return counts.ClassCounts(name, chosen, threshold, doubtful, pictures, calibrated=self.temperature != 1)

    def explain(
        self,
        images: Pictures | None = None,
        *,
        split: str = "val",
        count: int = 12,
        layer: str | None = None,
        target: str | None = None,
        method: str = "hires-cam",
        follow_links: bool = False,
        skip_damaged: bool = False,
    ) -> "Explanations":
        """Explain predictions by class activation maps: a list, which a notebook shows.

        Args:
            images: as for `predict`; None for `count` images of the run's own `split`, misclassified ones first. Those
                of the test split are recorded as a test-set evaluation.
            split: split of the run's own images.
            count: number of its own images.
            layer: name of a layer in the layer table, or block of a vision transformer (`trunk.block3`). Default: the
                last layer with a feature map (`explain.feature_maps`).
            target: class to explain. Default: the predicted class, and the true class if the prediction is wrong.
            method: hires-cam or grad-cam (see `explain.cam`).
            follow_links: follow links out of the folders in `images`.
            skip_damaged: leave damaged images out, instead of stopping.

        Raises:
            ConfigError: the layer, class or method is unknown, or captum is not installed.
            DataError: the images are missing or have changed.
            NotEnoughMemoryError: too little memory for the gradients of a batch.
        """
        from loupe.explain import cam, feature_maps  # imported lazily: PyTorch
        from loupe.explain.explanations import explain
        from loupe.notebook.explanations import Explanations
        from loupe.report.explain_page import facts_of_maps

        feature_layer = feature_maps.choose_layer(self.model, layer)
        cam_method = cam.choose_method(method)
        index = index_of(self.classes)
        if target is not None and same_form(target) not in index:
            raise unknown_name("class", target, self.classes)
        number = None if target is None else index[same_form(target)]
        if images is None:
            recorded = self._representative(split, count)
            table = self._own_rows(recorded)
        else:
            recorded, table = None, table_of(images, follow_links=follow_links)
        loaded = self._open(Dataset(None, table), skip_damaged, keep=False)
        if recorded is not None and loaded.content != recorded.content:
            raise DataError(f"{table.name}: images have changed since the run was made. Restore them, or give images.")
        predictions = self._predict(loaded, np.arange(len(loaded.table)), match_classes(loaded.table, self.classes))
        predictions = predictions.calibrated(self.temperature)
        explanations = []
        with terminal(quiet=self.quiet), memory_remedy(MEMORY_REMEDY), progress_bar() as progress:
            task = progress.add_task("explaining", total=len(predictions), note="")
            for explanation in explain(self.model, loaded, predictions, feature_layer, cam_method, number):
                explanations.append(explanation)
                progress.advance(task)
        facts = facts_of_maps(feature_layer, cam_method, self.temperature, explanations)
        return Explanations(explanations, self.directory.name, facts)

    def filters(
        self, layer: str | None = None, *, count: int = 12, ascent: "AscentSettings | None" = None
    ) -> "FilterResponses":
        """Visualise the first filters of a layer by activation maximisation: a list, which a notebook shows.

        Args:
            layer: name of a layer in the layer table. Default: the first, the middle and the last convolution.
            count: number of filters of each layer.
            ascent: settings of the gradient ascent. Default: those of `explain.filters`.
        """
        from loupe.explain import feature_maps, filters
        from loupe.notebook.explanations import FilterResponses

        layers = [feature_maps.choose_layer(self.model, layer)] if layer else filters.default_layers(self.model)
        numbers = {chosen: range(min(count, chosen.shape[0])) for chosen in layers}
        settings = ascent or filters.AscentSettings()
        with terminal(quiet=self.quiet), memory_remedy(MEMORY_REMEDY), progress_bar() as progress:
            steps = settings.steps * sum(map(len, numbers.values()))
            task = progress.add_task("maximising activations", total=steps, note="")
            images = [
                response
                for chosen, wanted in numbers.items()
                for response in filters.maximise(self.model, chosen, wanted, settings, lambda: progress.advance(task))
            ]
        return FilterResponses(images, self.directory.name, settings, {one.name: one.shape for one in numbers})

    def _representative(self, split: str, count: int) -> Predictions:
        """Stored predictions of a few images of a split, misclassified ones first; a test split is recorded."""
        from loupe.explain.explanations import representative

        stored = self._stored(split)
        return stored.select(representative(stored, count, self.results.seed))

    def _stored(self, split: str) -> Predictions:
        """Stored predictions of a split, calibrated; a test split is recorded as a test-set evaluation."""
        file = self.directory.file("predictions.csv")
        if not file.is_file():
            raise RunStateError(f"{self.path} has no predictions of {split} images. Give the images.")
        stored = Predictions.read(file, split).calibrated(self.temperature)
        if split == "test":
            looks = record_look(self.path.parent, split_hash(stored), self.directory.name)
            with terminal(quiet=self.quiet):
                logger.info(f"Test-set evaluations recorded in this folder: {looks}.")
        return stored

    def _own_dataset(self, data: Any = None) -> Dataset:
        """Images of the run; `data` if it was trained on arrays."""
        if isinstance(data, Dataset):
            return data
        environment = environment_of(self.directory)
        if data is None or not environment.lacks_credentials:
            check_credentials(environment, self.directory, "Give the address with them as the data.")
        source = data if environment.data is None or environment.lacks_credentials else environment.data
        if source is None:
            raise DataError("this run was trained on arrays, which are not stored. Give the images.")
        if isinstance(source, str) and is_gone(source):
            raise DataError(f"the images of {self.path} are no longer at {source}. Give their new place with --data.")
        with terminal(quiet=self.quiet):
            dataset = open_dataset(source, environment.read_options(), announce=False, verify=self.verify)
            check_versions(environment, dataset.table)
            return dataset

    def _own_rows(self, predictions: Predictions) -> ImageTable:
        """Images of the run that these predictions are of, in their order."""
        table = self._own_dataset().table
        row_of = {same_form(path): row for row, path in enumerate(table.paths)}
        row_of |= {path: row for row, path in enumerate(table.paths)}
        rows = [row_of.get(path, row_of.get(same_form(path))) for path in predictions.path]
        missing = [path for path, row in zip(predictions.path, rows, strict=True) if row is None]
        if missing:
            raise DataError(f"{table.name}: {missing[0]} no longer exists. Restore the data, or give images.")
        return table.select([row for row in rows if row is not None])

    def _calibrated(self, predictions: Predictions) -> Calibrated:
        from loupe.evaluate import calibration

        compared = calibration.compare(predictions, self.temperature)
        log_loss, ece = (compared.log_loss.after, compared.ece.after) if compared else (None, None)
        return Calibrated(temperature=self.temperature, log_loss=log_loss, ece=ece)

    def _rows_to_evaluate(self, images: Images, split: str) -> tuple[np.ndarray, str]:
        """Rows of the given images to evaluate as `split`, and a remark if some are images of the run itself.

        Images of the run keep its split; of the others, those with this split are taken, or all if they have none. A
        refitted head has learned from validation images, which then count as training images.
        """
        given = images.table.splits
        check_split(self.directory)
        known_N = split_file.known(self.directory.file("split.csv"), images.table, images.content)
        if self.results.refit:
            known_N = np.where(known_N == "val", "train", known_N)
        asked_N = np.array([name == split for name in given]) if any(given) else np.full(len(given), True)
        rows_N = np.flatnonzero(np.where(known_N == "", asked_N, known_N == split))
        counts = {name: int((known_N == name).sum()) for name in splits.SPLITS}
        if not any(counts.values()):
            return rows_N, ""
        listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        images_text = f"{sum(counts.values()):,} of {counted(len(given), 'image')}"
        remark = f"{images_text} belong to the run and keep its split ({listed})"
        other_N = (known_N == "") & (images.table.labels >= 0)
        own, others = int((known_N[rows_N] != "").sum()), int(other_N[rows_N].sum())
        with terminal(quiet=self.quiet):
            if not other_N.any():
                logger.info(f"{remark}.")
            else:
                logger.warning(f"{remark}. Evaluated: {own:,} of those, and {counted(others, 'other image')}.")
        return rows_N, remark

    def _identity(self, predictions: Predictions, split: str) -> str:
        """Hash under which evaluations of these images are recorded: that of the test split, if one image is in it."""
        if split == "test":
            own = split_file.stored(self.directory.file("split.csv")).values()
            if {digest for _, name, digest in own if name == "test"} & set(predictions.content):
                return str(self.results.split_hash)
        return split_hash(predictions)


def _some(predictions: Predictions, split: str, remark: str = "") -> Predictions:
    """Check that there are predictions, and return them.

    Raises:
        DataError: there are none.
    """
    if len(predictions):
        return predictions
    raise DataError(
        sentences(f"there are no {split} images to evaluate", remark, "Choose another --split, or give other --data.")
    )
