"""What a run found out, as the content of results.json."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from loupe import __version__
from loupe.config.recipe import Recipe
from loupe.data.pixels.prepare import Images
from loupe.data.splits.split import Split
from loupe.evaluate import metrics
from loupe.evaluate.groups import by_group
from loupe.evaluate.learning_curves import Diagnosis
from loupe.evaluate.predictions import Predictions
from loupe.models.classifier import Classifier
from loupe.models.summary import count_parameters, layer_table
from loupe.recipes.published.experiments import experiment
from loupe.rundir import SCHEMA
from loupe.training.stage_data import StageDataBuilder
from loupe.training.train_state import Row, TrainState

Block = dict[str, Any]


def measured(part: Predictions, groups: Sequence[str | None]) -> Block:
    """The metrics of one split, with the accuracy of each group; `groups` has that of each image."""
    return {**metrics.evaluate(part), "per_group": by_group(part, groups)}


def assemble(
    *,
    name: str,
    recipe: Recipe,
    images: Images,
    split: Split,
    model: Classifier,
    preparation: StageDataBuilder,
    position: TrainState,
    split_hash: str | None,
    blocks: Mapping[str, Block | None],
    confidence: Mapping[str, Block],
    test_looks: int,
    load_seconds: float,
    evaluate_seconds: float,
    diagnosis: Diagnosis,
    next_command: str | None,
) -> dict[str, Any]:
    """The schema of DESIGN: fractions, not percent; seconds; null with a `why` where something is undefined.

    Args:
        blocks: the metrics of `validation` and `test`, of the logits as they are; None where a split is empty.
        confidence: the blocks `calibration` and `selective`.
        diagnosis: of the learning curves; `next_command` runs what it recommends, if it does.
    """
    history = position.history
    return {
        "schema": SCHEMA,
        "version": __version__,
        "name": name,
        "dataset": images.table.name,
        "recipe": recipe.name,
        "network": recipe.model.name,
        "seed": recipe.seed,
        "split_hash": split_hash,
        "classes": list(model.classes),
        "images": {name: len(getattr(split, name)) for name in ("train", "val", "test")},
        **blocks,
        **confidence,
        "test_looks": test_looks,
        "parameters": count_parameters(model),
        "layers": layer_table(model),
        "epochs": len(history),
        "best_epoch": position.best_epoch if recipe.keep == "best" else len(history),
        "stopped": position.stopped,
        "seconds": _seconds(history, preparation, load_seconds, evaluate_seconds),
        "images_per_second": round(fmean(row["images_per_second"] for row in history), 1),
        "precision": preparation.arithmetic.precision,
        "frozen_precision": preparation.frozen_arithmetic.precision if model.frozen else None,
        "device": str(preparation.arithmetic.device),
        "damaged": images.damaged,
        "diagnosis": {
            "verdict": diagnosis.verdict,
            "epoch": diagnosis.epoch,
            "text": diagnosis.text,
            "settings": list(diagnosis.settings),
            "next": next_command,
        },
        "published": experiment(recipe.experiment).to_json() if recipe.experiment else None,
    }


def _seconds(history: Sequence[Row], preparation: StageDataBuilder, load: float, evaluate: float) -> Block:
    """Training is summed up from the history, over all interruptions.

    `frozen` is what computing what is frozen took here, `frozen_alone` what it takes where nothing of it is found in
    the cache; None where some of it was found and its time is not known.
    """
    train, alone = sum(row["seconds"] for row in history), preparation.alone_seconds
    return {
        "load": round(load, 3),
        "frozen": round(preparation.seconds, 3),
        "frozen_alone": None if alone is None else round(alone, 3),
        "train": round(train, 3),
        "epoch_mean": round(train / len(history), 3),
        "evaluate": round(evaluate, 3),
        "total": round(load + preparation.seconds + train + evaluate, 3),
    }
