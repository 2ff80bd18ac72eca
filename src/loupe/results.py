"""What a run found out, as the content of results.json."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from statistics import fmean
from typing import Any

from loupe.evaluate import metrics
from loupe.evaluate.diagnosis import Diagnosis
from loupe.evaluate.groups import by_group
from loupe.evaluate.predictions import Predictions
from loupe.ledger import SCHEMA
from loupe.models.classifier import Classifier
from loupe.models.summary import count_parameters, layer_table
from loupe.recipe import Recipe
from loupe.recipes.experiments import experiment
from loupe.runtime import Arithmetic

Block = dict[str, Any]


def measured(part: Predictions, groups: Sequence[str | None]) -> Block:
    """The metrics of one split, with the accuracy of each group; `groups` has that of each image."""
    return {**metrics.evaluate(part), "per_group": by_group(part, groups)}


def assemble(
    *,
    name: str,
    dataset: str,
    recipe: Recipe,
    model: Classifier,
    arithmetic: Arithmetic,
    history: Sequence[Mapping[str, Any]],
    best_epoch: int,
    stopped: str | None,
    images: Mapping[str, int],
    damaged: int,
    split_hash: str | None,
    blocks: Mapping[str, Block | None],
    confidence: Mapping[str, Block],
    test_looks: int,
    seconds: Mapping[str, float],
    frozen_alone_seconds: float | None,
    diagnosis: Diagnosis,
    next_command: str | None,
) -> dict[str, Any]:
    """The schema of DESIGN: fractions, not percent; seconds; null with a `why` where something is undefined.

    Args:
        history: the rows of metrics.csv.
        images: how many each split has.
        blocks: the metrics of `validation` and `test`, of the logits as they are; None where a split is empty.
        confidence: the blocks `calibration` and `selective`.
        diagnosis: of the learning curves; `next_command` runs what it recommends, if it does.
        seconds: what `load`, `evaluate` and computing what is `frozen` took; training is summed up from the history,
            over all interruptions.
        frozen_alone_seconds: what computing what is frozen takes where nothing of it is found in the cache; None where
            some of it was found and its time is not known.
    """
    train_seconds = sum(row["seconds"] for row in history)
    return {
        "schema": SCHEMA,
        "version": version("loupe"),
        "name": name,
        "dataset": dataset,
        "recipe": recipe.name,
        "network": recipe.model.name,
        "seed": recipe.seed,
        "split_hash": split_hash,
        "classes": list(model.classes),
        "images": dict(images),
        **blocks,
        **confidence,
        "test_looks": test_looks,
        "parameters": count_parameters(model),
        "layers": layer_table(model),
        "epochs": len(history),
        "best_epoch": best_epoch,
        "stopped": stopped,
        "seconds": {
            "load": round(seconds["load"], 3),
            "frozen": round(seconds["frozen"], 3),
            "frozen_alone": None if frozen_alone_seconds is None else round(frozen_alone_seconds, 3),
            "train": round(train_seconds, 3),
            "epoch_mean": round(train_seconds / len(history), 3),
            "evaluate": round(seconds["evaluate"], 3),
            "total": round(sum(seconds.values()) + train_seconds, 3),
        },
        "images_per_second": round(fmean(row["images_per_second"] for row in history), 1),
        "precision": arithmetic.precision,
        "device": str(arithmetic.device),
        "damaged": damaged,
        "diagnosis": {
            "verdict": diagnosis.verdict,
            "epoch": diagnosis.epoch,
            "text": diagnosis.text,
            "settings": list(diagnosis.settings),
            "next": next_command,
        },
        "published": experiment(recipe.experiment).to_json() if recipe.experiment else None,
    }
