"""Out-of-fold evaluation of the solved head of a run with few images: each is predicted without learning from its fold.

Validation images of a small set are too few to tell much. The features of all images outside the test split are kept
already, so that solving the head anew without each of 5 folds costs seconds, and every image is one to judge by.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from loupe.config.recipe import Recipe
from loupe.config.resolved import ResolvedStage
from loupe.data.pixels.prepare import Images
from loupe.data.pixels.read_ahead import batch_size
from loupe.data.splits.folds import as_many_as_fit
from loupe.devices import StopSignal
from loupe.errors import StoppedError, counted
from loupe.evaluate.history import selected_strength
from loupe.evaluate.predictions import Predictions
from loupe.log import logger
from loupe.ranks import current
from loupe.rundir import RunDirectory
from loupe.runs.setup import TrainingSetup
from loupe.training import checkpoint
from loupe.training.activation_loader import ActivationLoader
from loupe.training.checkpoint import DamagedError, Snapshot
from loupe.training.heads import Floats, Ints, out_of_fold
from loupe.training.solver import logits_layer
from loupe.training.stage_data import KeptOutputs, StageDataBuilder
from loupe.training.train_state import TrainState

MOST_IMAGES = 2_000  # labelled, outside the test split; with as many, validation images alone tell enough


@dataclass(frozen=True)
class HeadFolds:
    """Out-of-fold predictions of the solved head of the first stage.

    Attributes:
        rows_M: rows of the table that were predicted.
        logits_MK: of these rows.
        folds: number of folds.
        learned: images that each head learned from, on average.
        strength: L2 strength of all heads.
        is_best: True if the strength is the one with the lowest log loss of these predictions; False if it is that of
            the head of the run.
        seconds: time that they took.
    """

    rows_M: Ints
    logits_MK: Floats
    folds: int
    learned: int
    strength: float
    is_best: bool
    seconds: float

    def predictions(self, images: Images, classes: tuple[str, ...]) -> Predictions:
        """The predictions, of the images of the run."""
        return Predictions(
            path=tuple(images.table.paths[row] for row in self.rows_M),
            content=tuple(images.content[row] for row in self.rows_M),
            label=images.table.labels[self.rows_M],
            logits_NK=self.logits_MK,
            classes=classes,
        )

    def snapshot(self) -> Snapshot:
        """The content of its checkpoint."""
        tensors = {"rows": torch.from_numpy(self.rows_M), "logits": torch.from_numpy(self.logits_MK)}
        values = {name: getattr(self, name) for name in ("folds", "learned", "strength", "is_best", "seconds")}
        return Snapshot({"folds": tensors}, values)

    @classmethod
    def of(cls, snapshot: Snapshot) -> "HeadFolds":
        tensors = snapshot.tensors["folds"]
        return cls(tensors["rows"].numpy(), tensors["logits"].numpy(), **snapshot.values)


@dataclass
class FoldJudge:
    """Judge of the head of the first stage, if it is solved and there are few images.

    The predictions are a checkpoint of their own: a run that is resumed in a later stage has no features of the first.
    """

    directory: RunDirectory
    setup: TrainingSetup
    preparation: StageDataBuilder
    stop: StopSignal

    def after_solving(self, stage: ResolvedStage, state: TrainState) -> None:
        """Judge the head, if the stage is the first one and it was not done before an interruption.

        Raises:
            StoppedError: asked to stop.
            LostRankError: another rank has ended.
        """
        if state.stage or self.found() is not None:
            return
        split, recipe = self.setup.split, self.setup.recipe
        pool_N = np.sort(np.concatenate([split.train, split.val]))
        if len(pool_N) >= MOST_IMAGES:
            return
        began, first_epoch = time.perf_counter(), len(state.history) - state.epoch
        images = self.setup.images
        fold_N = as_many_as_fit(images.table, images.content, pool_N, seed=recipe.split_seed, group=recipe.split.group)
        if not _can_be_judged(images.table.labels[pool_N], fold_N):
            logger.info("no folds: fewer than two classes have two images, with copies and groups counted once.")
            return
        kept = self.preparation.kept(stage, first_epoch, pool_N)
        if kept is None:
            logger.info("not judged by folds: the outputs of the frozen blocks are not kept.")
            return
        found = current().from_main(lambda: self._judged(kept, pool_N, fold_N, began, chosen_strength(recipe, state)))
        if found.is_best:
            logger.info(f"L2 strength with the lowest log loss over the folds: {found.strength:.3g}.")

    def found(self) -> HeadFolds | None:
        """Predictions of the folds, on every rank; None if there are none."""
        return current().from_main(self._found)

    def _found(self) -> HeadFolds | None:
        path = self.directory.checkpoints / "folds"
        if not path.is_dir():
            return None
        try:
            return HeadFolds.of(checkpoint.read(path))
        except DamagedError as damage:
            logger.warning(f"{path} is damaged ({damage}): the run has no figures of folds.")
            return None

    def _judged(self, kept: KeptOutputs, pool_N: Ints, fold_N: Ints, began: float, strength: float | None) -> HeadFolds:
        """Predict by heads without each fold, and save the predictions."""
        setup, number = self.setup, len(np.unique(fold_N[fold_N >= 0]))
        weight_K = None if setup.class_weights_K is None else setup.class_weights_K.cpu().numpy()
        evaluation_NC = self._features(kept.evaluation, pool_N)
        views = [] if kept.parts[0][0] is kept.evaluation else [self._view(kept, pool_N, k) for k in range(kept.views)]
        # Which strength is best tells the folds, which have far more images, where the run learns from all of them.
        is_best = setup.recipe.refit and len(setup.recipe.stages) == 1
        found = out_of_fold(
            evaluation_NC,
            setup.images.table.labels[pool_N],
            fold_N,
            len(setup.model.classes),
            weight_K=weight_K,
            views_VNC=np.stack(views) if views else None,
            strength=None if is_best else strength,
            before_each=self._check_stop,
        )
        judged_N = fold_N >= 0
        head_folds = HeadFolds(
            rows_M=pool_N[judged_N],
            logits_MK=found.logits_NK[judged_N],
            folds=number,
            learned=round(len(pool_N) - judged_N.sum() / number),
            strength=found.strength,
            is_best=is_best,
            seconds=round(time.perf_counter() - began, 3),
        )
        checkpoint.write(self.directory.checkpoints / "folds", head_folds.snapshot())
        logger.info(
            f"{counted(number, 'fold')}: {counted(len(head_folds.rows_M), 'image')} predicted by heads that learned "
            f"without them, in {head_folds.seconds:.1f} s."
        )
        return head_folds

    def _check_stop(self) -> None:
        if self.stop.received:
            raise StoppedError("stopped; nothing is lost.")

    def _view(self, kept: KeptOutputs, pool_N: Ints, number: int) -> Floats:
        """Features of training view `number` of all images, [N, C]."""
        epoch, parts = kept.first_epoch + number, kept.parts
        features_NC = np.concatenate([self._features(loader.at(epoch), rows_N) for loader, rows_N in parts])
        return features_NC[np.argsort(np.concatenate([rows_N for _, rows_N in parts]))]

    @torch.inference_mode()
    def _features(self, loader: ActivationLoader, rows_N: Ints) -> Floats:
        """Inputs of the logits layer for some rows, [N, C]."""
        model, logits = self.setup.model, logits_layer(self.setup.model)
        pool, was_training, parts = nn.Sequential(*[one for one in model.head if one is not logits]), model.training, []
        model.eval()
        for batch in loader.batches(rows_N, batch_size(model.preprocessing.size)):
            with self.setup.compute.autocast():
                parts.append(pool(batch.x_BCHW).float().cpu().numpy())
        model.train(was_training)
        return np.concatenate(parts)


def chosen_strength(recipe: Recipe, state: TrainState, number: int = 0) -> float:
    """L2 strength of the head of stage `number`, from 0, which was solved."""
    rows = state.rows(number)
    return float(rows[selected_strength(rows, recipe.stages[number], recipe.monitor)]["l2_strength"])


def _can_be_judged(label_N: Ints, fold_N: Ints) -> bool:
    """True if there are folds, and the images of all but any one have two classes or more."""
    folds = np.unique(fold_N[fold_N >= 0])
    return len(folds) > 1 and all(len(np.unique(label_N[fold_N != fold])) > 1 for fold in folds)
