"""Results of a run that has just been trained, from its parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from loupe import __version__
from loupe.config.recipe import Recipe
from loupe.data.pixels.prepare import Images
from loupe.data.splits.split import Split
from loupe.evaluate.confidence_results import Calibration, Selective
from loupe.evaluate.history import selected_strength, stage_results
from loupe.evaluate.results import (
    DiagnosisResult,
    Evaluation,
    FoldEvaluation,
    ImageCounts,
    Layer,
    Parameters,
    RefitResult,
    RunResults,
    SecondsSpent,
    UnreadImages,
)
from loupe.models.classifier import Classifier
from loupe.models.summary import count_parameters, parameter_table
from loupe.provenance import MadeOf, ParentRun
from loupe.recipes.published.experiments import experiment
from loupe.training.stage_data import StageDataBuilder
from loupe.training.train_state import Row, TrainState


@dataclass(frozen=True)
class Trained:
    """A training at its end.

    Attributes:
        model: network with its final weights.
        preparation: data of the last stage.
        load_seconds: time before the training.
        evaluate_seconds: time after it.
    """

    model: Classifier
    preparation: StageDataBuilder
    state: TrainState
    load_seconds: float
    evaluate_seconds: float


@dataclass(frozen=True)
class Evaluated:
    """Evaluation of a trained network.

    Attributes:
        split_hash: hash of the test images, also if they were not evaluated; None if there are none.
        evaluations: metrics of `validation` and `test`, uncalibrated; None for a split that was not evaluated.
        test_looks: test-set evaluations recorded in the runs folder.
        folds: metrics of out-of-fold predictions, if there are some; `folds_seconds`: their time, with a refit's.
        refit: images that a refitted head learned from, if it was.
    """

    split_hash: str | None
    evaluations: Mapping[str, Evaluation | None]
    calibration: Calibration
    selective: Selective
    test_looks: int
    folds: FoldEvaluation | None = None
    folds_seconds: float = 0.0
    refit: RefitResult | None = None


def assemble(
    *,
    name: str,
    recipe: Recipe,
    images: Images,
    split: Split,
    trained: Trained,
    evaluated: Evaluated,
    diagnosis: DiagnosisResult | None,
    parent: ParentRun | None,
    made_of: tuple[MadeOf, ...] = (),
) -> RunResults:
    """Results of a run, under its name.

    Args:
        diagnosis: None for a run that was not trained.
        parent: trained classifier from whose weights it started.
        made_of: runs that it was made of.
    """
    model, preparation, state = trained.model, trained.preparation, trained.state
    history, in_steps = state.history, _in_steps(state.history, recipe)
    return RunResults(
        version=__version__,
        name=name,
        dataset=images.table.name,
        recipe=recipe.name,
        network=recipe.model.name,
        seed=recipe.seed,
        split_hash=evaluated.split_hash,
        classes=tuple(model.classes),
        images=ImageCounts(train=len(split.train), val=len(split.val), test=len(split.test)),
        validation=evaluated.evaluations["validation"],
        test=evaluated.evaluations["test"],
        **({} if evaluated.folds is None else {"folds": evaluated.folds}),
        **({} if evaluated.refit is None else {"refit": evaluated.refit}),
        calibration=evaluated.calibration,
        selective=evaluated.selective,
        test_looks=evaluated.test_looks,
        parameters=Parameters.model_validate(count_parameters(model)),
        layers=tuple(Layer.model_validate(row) for row in parameter_table(model)),
        epochs=len(history),
        best_epoch=kept_epoch(recipe, state) if history else None,
        stages=stage_results(history, recipe),
        stopped=state.stopped,
        seconds=_seconds(
            history, recipe, preparation, trained.load_seconds, evaluated.folds_seconds, trained.evaluate_seconds
        ),
        images_per_second=round(fmean(row["images_per_second"] for row in in_steps), 1) if in_steps else None,
        precision=preparation.compute.precision,
        frozen_precision=preparation.frozen_compute.precision if model.frozen else None,
        device=str(preparation.compute.device),
        **({} if parent is None else {"parent": parent}),
        **({"made_of": made_of} if made_of else {}),
        damaged=images.damaged,
        unread=tuple(
            UnreadImages(label=group.label, format=group.format, images=len(group.paths))
            for group in images.table.unread
        ),
        diagnosis=diagnosis,
        published=experiment(recipe.experiment) if recipe.experiment else None,
    )


def kept_epoch(recipe: Recipe, state: TrainState) -> int:
    """Epoch of the weights that the run ends with, over all stages.

    A solved head is that of the best L2 strength of its stage, also where the weights of the last epoch are kept.
    """
    if epoch := state.kept_epoch or (state.best_epoch if recipe.keeps == "best" else 0):
        return epoch
    number = int(state.history[-1]["stage"]) - 1
    if not recipe.stages[number].is_solved:
        return len(state.history)
    before = len([row for row in state.history if row["stage"] != number + 1])
    return before + selected_strength(state.rows(number), recipe.stages[number], recipe.monitor) + 1


def _in_steps(history: Sequence[Row], recipe: Recipe) -> list[Row]:
    """Rows of the stages that were trained in steps: epochs, and no L2 strengths."""
    return [row for row in history if not recipe.stages[int(row["stage"]) - 1].is_solved]


def _seconds(
    history: Sequence[Row],
    recipe: Recipe,
    preparation: StageDataBuilder,
    load: float,
    folds: float,
    evaluate: float,
) -> SecondsSpent:
    """Seconds of each phase; training is the sum over the history, across interruptions."""
    train, alone = sum(row["seconds"] for row in history), preparation.alone_seconds
    epochs = [row["seconds"] for row in _in_steps(history, recipe)]
    return SecondsSpent(
        load=round(load, 3),
        frozen=round(preparation.seconds, 3),
        frozen_alone=None if alone is None else round(alone, 3),
        train=round(train, 3),
        epoch_mean=round(sum(epochs) / len(epochs), 3) if epochs else None,
        **({"folds": round(folds, 3)} if folds else {}),
        evaluate=round(evaluate, 3),
        total=round(load + preparation.seconds + train + folds + evaluate, 3),
    )
