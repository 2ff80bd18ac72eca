"""A run that has been trained: a predictor that knows its own images, and evaluates and explains itself on any."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from loupe.config.resolved import ResolvedRecipe
from loupe.data.dataset import Dataset, open_dataset
from loupe.data.pixels.prepare import Images
from loupe.data.sources.inference_inputs import Pictures, table_of
from loupe.data.splits import split as splits
from loupe.data.table import ImageTable, match_classes
from loupe.errors import ConfigError, DataError, RunStateError, unknown_name
from loupe.evaluate import calibration, metrics, selective
from loupe.evaluate.predictions import Predictions, read_splits, split_hash
from loupe.evaluate.results import Calibrated, Evaluation, results_of
from loupe.explain import cam, feature_maps, filters
from loupe.explain.explanations import Explanation, explain, representative
from loupe.log import logger, progress_bar, terminal
from loupe.provenance import environment_of
from loupe.rundir import RunDirectory, count_looks, record_look
from loupe.runs.predictor import Predictor


class Run(Predictor):
    """A finished run: its files, its results, and its classifier.

    Attributes:
        directory: the run's files.
        results: the content of results.json; `results.to_json()` is plain data.
    """

    def __init__(self, directory: RunDirectory, *, device: str = "auto", quiet: bool = True) -> None:
        results = results_of(directory)
        if results is None:
            raise RunStateError(f"{directory.path} is not finished. Go on with: {directory.resume_command}")
        super().__init__(directory.model, device=device, quiet=quiet)
        self.directory = directory
        self.results = results

    def __repr__(self) -> str:
        return f"Run({str(self.directory.path)!r})"

    def _repr_html_(self) -> str:
        """What a notebook shows of it."""
        from loupe.report.run_page import in_notebook  # matplotlib takes a second to import

        return in_notebook(self.path)

    @property
    def path(self) -> Path:
        return self.directory.path

    @property
    def classes(self) -> tuple[str, ...]:
        return self.results.classes

    @cached_property
    def recipe(self) -> ResolvedRecipe:
        return ResolvedRecipe.of(self.directory.read_recipe())

    def threshold_for(self, precision: float) -> selective.Threshold:
        """The lowest calibrated probability from which on predictions can be promised to be right in that share.

        It is chosen by the run's validation images; `selective` says what the promise is.

        Raises:
            LoupeError: there were no validation images, or that precision cannot be promised; it says which can.
        """
        file = self.directory.file("predictions.csv")
        validation = (read_splits(file) if file.is_file() else {}).get("val")
        if validation is None:
            raise RunStateError(
                f"{self.path} has no predictions of validation images to choose a threshold by. Give a --threshold."
            )
        found = selective.threshold_for(validation, precision, self.temperature)
        if found is None:
            highest = selective.highest_precision(validation, self.temperature)
            raise ConfigError(
                f"a precision of {precision:g} cannot be promised: by its {len(validation):,} validation images the "
                f"highest of this run is {highest:g}. Ask for that at most, validate on more images, or give a "
                "--threshold."
            )
        return found

    def evaluate(self, split: str = "val", data: Any = None, *, skip_damaged: bool = False) -> Evaluation:
        """The metrics of one split of the run's data, or of other data, as in results.json.

        They are those of the logits as they are; `calibrated` has log loss and calibration error at the temperature.
        Classes are matched by name. A look at a test split is counted in the runs folder, and the count comes with the
        metrics as `test_looks`.

        Args:
            split: val or test (or train).
            data: other images with labels. Of those that have splits given, `split` is taken; else all. Images that are
                the run's own, by their content, stay where its split has them, and it is said how many these are: no
                image that was trained on counts as one of validation or test.

        Raises:
            LoupeError: there are no such images, or they have a class that the model does not know.
        """
        predictions = self.predictions_of(split, data, skip_damaged=skip_damaged)
        block = metrics.evaluate(predictions).model_copy(update={"calibrated": self._calibrated(predictions)})
        identity = self._identity(predictions, split)
        if split == "test" or count_looks(self.path.parent, identity):  # a test set under another name is still one
            looks = record_look(self.path.parent, identity, self.directory.name)
            block = block.model_copy(update={"test_looks": looks})
        return block

    def predictions_of(self, split: str, data: Any = None, *, skip_damaged: bool = False) -> Predictions:
        """What the network says of one split of the run's data, or of other data; who looks at labels counts the look.

        Raises:
            LoupeError: as for `evaluate`.
        """
        if split not in splits.SPLITS:
            raise unknown_name("split", split, splits.SPLITS)
        if data is None:
            images, own = self.own_images()
            return _some(self.predictions_for(images, own.rows(split)), split)
        with terminal(quiet=self.quiet):
            dataset = open_dataset(data, announce=False)
        images = self._open(dataset, skip_damaged)
        rows_N, remark = self._asked_of(images, split)
        label_N = match_classes(images.table, self.classes)
        return _some(self._predict(images, rows_N, label_N), split, remark)

    def own_images(self, data: Any = None) -> tuple[Images, splits.Split]:
        """The run's own images, opened, and the split that it was trained on.

        Args:
            data: the images again, where the run was trained on arrays.

        Raises:
            LoupeError: they cannot be found, or have changed.
        """
        images = self._open(self._own_dataset(data), bool(self.results.damaged))
        return images, splits.read(self.directory.file("split.csv"), images.table, images.content)

    def predictions_for(self, images: Images, rows_N: np.ndarray) -> Predictions:
        """What the network says of some rows of the run's own images."""
        return self._predict(images, rows_N, images.table.labels)

    def explain(
        self,
        images: Pictures | None = None,
        *,
        split: str = "val",
        count: int = 12,
        layer: str | None = None,
        target: str | None = None,
        method: str = cam.DEFAULT,
        skip_damaged: bool = False,
    ) -> list[Explanation]:
        """Where the evidence lies for what the network says of some images: class activation maps.

        Args:
            images: as for `predict`; without them, `count` images of the run's own `split`, missed ones first. Those of
                the test split count as a look at it.
            layer: whose map of features is explained, as the layer table names it, or a block of a vision transformer
                (`trunk.block3`); unless given, the last that holds places (`evaluate.layouts`).
            target: the class that is explained; unless given, the predicted one, and where it is wrong the true one.
            method: hires-cam or grad-cam; the module `evaluate.activation_maps` says how they differ.

        Raises:
            LoupeError: no such layer, class, method or images; or captum is not installed.
        """
        chosen = feature_maps.choose_layer(self.model, layer)
        way = cam.choose_method(method)
        if target is not None and target not in self.classes:
            raise unknown_name("class", target, self.classes)
        number = None if target is None else self.classes.index(target)
        if images is None:
            recorded = self._telling(split, count)
            table = self._own_rows(recorded)
        else:
            recorded, table = None, table_of(images)
        opened = self._open(Dataset(None, table), skip_damaged, keep=False)
        if recorded is not None and opened.content != recorded.content:
            raise DataError(f"{table.name}: images have changed since the run was made. Restore them, or give images.")
        said = self._predict(opened, np.arange(len(opened.table)), match_classes(opened.table, self.classes))
        said = said.calibrated(self.temperature)
        found = []
        with terminal(quiet=self.quiet), progress_bar() as progress:
            task = progress.add_task("explaining", total=len(said), note="")
            for explanation in explain(self.model, opened, said, chosen, way, number):
                found.append(explanation)
                progress.advance(task)
        return found

    def filters(
        self, layer: str | None = None, *, count: int = 12, ascent: filters.AscentSettings | None = None
    ) -> list[filters.FilterImages]:
        """What the first filters of a layer respond to: pictures by activation maximisation, with the same seed.

        Args:
            layer: as the layer table names it; unless given, the first, the middle and the last convolution.
            count: how many filters of each layer.
            ascent: the settings; as the module `evaluate.filters` has them unless given.
        """
        layers = [feature_maps.choose_layer(self.model, layer)] if layer else filters.default_layers(self.model)
        numbers = {chosen: range(min(count, chosen.shape[0])) for chosen in layers}
        settings = ascent or filters.AscentSettings()
        with terminal(quiet=self.quiet), progress_bar() as progress:
            steps = settings.steps * sum(map(len, numbers.values()))
            task = progress.add_task("climbing", total=steps, note="")
            return [
                response
                for chosen, wanted in numbers.items()
                for response in filters.maximise(self.model, chosen, wanted, settings, lambda: progress.advance(task))
            ]

    def _telling(self, split: str, count: int) -> Predictions:
        """What the run said, when it was made, of those images of a split that are worth explaining."""
        said = Predictions.read(self.directory.file("predictions.csv"), split).calibrated(self.temperature)
        if split == "test":
            looks = record_look(self.path.parent, split_hash(said), self.directory.name)
            with terminal(quiet=self.quiet):
                logger.info(f"Looks at this test split so far, in this runs folder: {looks}.")
        return said.select(representative(said, count, self.recipe.seed))

    def _own_dataset(self, data: Any = None) -> Dataset:
        """The images of the run; `data` are they again where it was trained on arrays."""
        if isinstance(data, Dataset):
            return data
        named = environment_of(self.directory).data
        source = data if named is None else named
        if source is None:
            raise DataError("this run was trained on arrays, which are not stored. Give the images again.")
        with terminal(quiet=self.quiet):
            return open_dataset(source, announce=False)

    def _own_rows(self, said: Predictions) -> ImageTable:
        """The images, of the run's own data, that these predictions are of, in their order."""
        table = self._own_dataset().table
        where = {path: row for row, path in enumerate(table.paths)}
        lost = [path for path in said.path if path not in where]
        if lost:
            raise DataError(f"{table.name}: {lost[0]} is no longer there. Restore the data, or give images.")
        return table.select([where[path] for path in said.path])

    def _calibrated(self, predictions: Predictions) -> Calibrated:
        compared = calibration.compare(predictions, self.temperature)
        log_loss, ece = (compared.log_loss.after, compared.ece.after) if compared else (None, None)
        return Calibrated(temperature=self.temperature, log_loss=log_loss, ece=ece)

    def _asked_of(self, images: Images, split: str) -> tuple[np.ndarray, str]:
        """The rows that a split means of images that were given, and what is to be known where some are the run's own.

        The run's own stay where its split has them; of the others count those that are given as `split`, or all.
        """
        given = images.table.splits
        known_N = splits.known(self.directory.file("split.csv"), images.table, images.content)
        asked_N = np.array([name == split for name in given]) if any(given) else np.full(len(given), True)
        rows_N = np.flatnonzero(np.where(known_N == "", asked_N, known_N == split))
        counts = {part: int((known_N == part).sum()) for part in splits.SPLITS}
        if not any(counts.values()):
            return rows_N, ""
        listed = ", ".join(f"{part} {count:,}" for part, count in counts.items())
        remark = (
            f"{sum(counts.values()):,} of these {len(given):,} images are the run's own, and stay where its split has "
            f"them ({listed})"
        )
        other_N = (known_N == "") & (images.table.labels >= 0)
        own, others = np.count_nonzero(known_N[rows_N] != ""), np.count_nonzero(other_N[rows_N])
        with terminal(quiet=self.quiet):
            if not other_N.any():
                logger.info(f"{remark}.")
            else:
                logger.warning(f"{remark}. Evaluated: {own:,} of them, and {others:,} others.")
        return rows_N, remark

    def _identity(self, predictions: Predictions, split: str) -> str:
        """What looks at these images are counted under: the run's test split, where any of them is of it."""
        if split == "test":
            own = splits.stored(self.directory.file("split.csv")).values()
            if {digest for _, part, digest in own if part == "test"} & set(predictions.content):
                return str(self.results.split_hash)
        return split_hash(predictions)


def _some(predictions: Predictions, split: str, remark: str = "") -> Predictions:
    """The predictions; LoupeError where they are of no image."""
    if len(predictions):
        return predictions
    why = f": {remark}" if remark else ""
    raise DataError(f"there are no {split} images to evaluate{why}. Choose another --split, or give other --data.")
