"""What a run leaves when its training is over: evaluation, model, predictions, pictures, results and report."""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from loupe import ledger, results
from loupe.architecture import BackboneSpec
from loupe.augment.pipeline import Augmenter
from loupe.console import command_line
from loupe.data import split as splits
from loupe.data.prepare import Images
from loupe.data.split import Split
from loupe.errors import LoupeError
from loupe.evaluate import calibration, predict, selective
from loupe.evaluate.calibration import Temperature
from loupe.evaluate.diagnosis import Diagnosis, diagnose
from loupe.evaluate.predictions import Predictions, write_splits
from loupe.exhibits import exhibits
from loupe.ledger import RunDirectory
from loupe.models import bundle
from loupe.models.classifier import Classifier
from loupe.recipe import Preprocessing, Recipe
from loupe.report import gallery, page
from loupe.training.progress import Position
from loupe.training.work import Preparation

SPLITS = {"validation": "val", "test": "test"}  # as results.json calls them, and as predictions.csv does


@dataclass
class Outcome:
    """Evaluates what a run has trained, and writes it; the test split only where it may be opened."""

    directory: RunDirectory
    recipe: Recipe
    images: Images
    split: Split
    open_test: bool

    def write(self, model: Classifier, preparation: Preparation, position: Position, load_seconds: float) -> None:
        """Everything but recipe, split and environment, which were there before.

        Args:
            model: with the weights that the run ends with; it is given its temperature.
            preparation: of the last stage, whose activations may serve once more.
            load_seconds: what came before the training.
        """
        began = time.perf_counter()
        self.directory.write_metrics(position.history)
        parts = self._predictions(model, preparation)
        temperature = calibration.fit_temperature(parts["val"]) if "val" in parts else Temperature()
        model.temperature = temperature.value
        test_hash = self._test_hash()
        looks = self._looks(test_hash, looked="test" in parts)
        bundle.save(self.directory.model, model, self.recipe.model, preparation.arithmetic.precision)
        if parts:
            self._write_predictions(parts, model)
        blocks = {name: self._measured(parts, split) for name, split in SPLITS.items()}
        diagnosis = self._diagnose(position, blocks["validation"], len(model.trunk))
        content = results.assemble(
            name=self.directory.name,
            recipe=self.recipe,
            images=self.images,
            split=self.split,
            model=model,
            preparation=preparation,
            position=position,
            split_hash=test_hash,
            blocks=blocks,
            confidence={
                "calibration": calibration.report(temperature, parts),
                "selective": selective.report(temperature.value, parts),
            },
            test_looks=looks,
            load_seconds=load_seconds,
            evaluate_seconds=time.perf_counter() - began,
            diagnosis=diagnosis,
            next_command=self._next_command(diagnosis, model.preprocessing),
        )
        self.directory.write_json("results.json", content)
        page.write_page(self.directory.path)

    def _predictions(self, model: Classifier, preparation: Preparation) -> dict[str, Predictions]:
        """Of each split that may be looked at and is not empty."""
        source, first = preparation.evaluation()
        return {
            name: predict.predictions(model, source, self.images, rows_N, preparation.arithmetic, first)
            for name, rows_N in self._rows().items()
            if len(rows_N)
        }

    def _rows(self) -> dict[str, np.ndarray]:
        return {"val": self.split.val, "test": self.split.test if self.open_test else self.split.test[:0]}

    def _measured(self, parts: Mapping[str, Predictions], split: str) -> results.Block | None:
        if split not in parts:
            return None
        groups = self.images.table.groups
        return results.measured(parts[split], [groups[row] for row in self._rows()[split]])

    def _write_predictions(self, parts: Mapping[str, Predictions], model: Classifier) -> None:
        """predictions.csv, and the pictures of the report, both with calibrated probabilities."""
        calibrated = {name: part.calibrated(model.temperature) for name, part in parts.items()}
        write_splits(self.directory.file("predictions.csv"), calibrated)
        shown = "test" if "test" in calibrated else "val"
        last = Augmenter(self.recipe.stages[-1].augment, model.preprocessing, self.recipe.seed)
        pictures = exhibits(self.images, self.split.train, last, calibrated[shown], shown)
        gallery.write(self.directory.file("gallery.parquet"), pictures, model.temperature)

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
            ledger.record_look(runs, test_hash, self.directory.name) if looked else ledger.count_looks(runs, test_hash)
        )

    def _diagnose(self, position: Position, validation: Mapping[str, Any] | None, blocks: int) -> Diagnosis:
        supports = [row["support"] for row in validation["per_class"]] if validation else []
        commonest = max(supports) / sum(supports) if supports else None
        return diagnose(position.history, self.recipe, commonest=commonest, images=sum(supports), blocks=blocks)

    def _next_command(self, diagnosis: Diagnosis, preprocessing: Preprocessing) -> str | None:
        """What the diagnosis recommends, to be typed as it stands: this run's recipe with changes, or another one."""
        data = self.directory.data or "DATA"
        changes = [part for setting in diagnosis.settings for part in ("--set", setting)]
        if changes:
            return command_line(["loupe", "train", data, "--recipe", str(self.directory.file("recipe.yaml")), *changes])
        network = self.recipe.model
        if diagnosis.recipe is None or not isinstance(network, BackboneSpec):
            return None
        pixels = [part for text in _pixels(network, preprocessing) for part in ("--set", text)]
        start = ["--model", network.backbone, "--weights", network.weights]
        return command_line(["loupe", "train", data, "--recipe", diagnosis.recipe, *start, *pixels])


def _pixels(network: BackboneSpec, preprocessing: Preprocessing) -> list[str]:
    """Settings that prepare pixels as they were, where the backbone alone would not say so."""
    from loupe.models import backbones

    mine, own = preprocessing.model_dump(mode="json"), dict[str, Any]()
    with suppress(LoupeError):  # what lies beside the weights may be gone by now: then all is said
        own = backbones.preprocessing(network).model_dump(mode="json")
    other = {name for name, value in mine.items() if name not in own or value != own[name]}
    if "size_px" in other:
        other.add("load_px")  # which otherwise grows with it
    return [f"input.{name}={str(value).replace(' ', '')}" for name, value in mine.items() if name in other]
