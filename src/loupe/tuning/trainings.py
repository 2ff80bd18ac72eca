"""Trainings of a search: figures of each, without test images, kept as small files; weights are removed at once.

A training has the key of its recipe, so that two trials with the same settings share one, and a search that goes on
after an interruption finds what was measured. One that was interrupted itself goes on from its checkpoint.
"""

import hashlib
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from loupe.cache import cache_folder
from loupe.config.recipe import Preprocessing
from loupe.config.resolved import ResolvedRecipe
from loupe.data.dataset import Dataset
from loupe.data.pixels.prepare import Images, load_images, used_levels
from loupe.data.splits import split as splits
from loupe.data.splits.split import Split
from loupe.devices import StopSignal, choose_device, give_back_memory, keep_freed_memory
from loupe.errors import DivergedError, InterruptedRunError, StoppedError
from loupe.evaluate import inference
from loupe.log import terminal
from loupe.models.classifier import Classifier
from loupe.records import Fraction, Quantity, Record, Seconds, Whole
from loupe.runs import teacher
from loupe.runs.check_split import check_split
from loupe.runs.mirrored import mirrored
from loupe.runs.options import RunOptions
from loupe.runs.order import epoch_order
from loupe.runs.results import kept_epoch
from loupe.runs.setup import TrainingSetup, set_up
from loupe.training.checkpoint import Checkpoints
from loupe.training.frozen import trunk_key
from loupe.training.loop import Trainer
from loupe.training.stage_data import StageData, StageDataBuilder
from loupe.training.train_state import TrainState
from loupe.tuning.rungs import epochs_in_steps

MEASURED = ("val_loss", "val_objective", "val_accuracy", "val_macro_f1")


class Trained(Record):
    """Figures of one training.

    Attributes:
        epochs: of all stages that trained in steps.
        row: validation metrics of the weights that would be kept; empty for a training that failed.
        losses, accuracies: on validation images, after each epoch or L2 strength.
        seconds: time of the training, with its validation.
        precision, frozen_precision: as measured, or as asked for.
        why: error of a training that failed, as one that diverged.
    """

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "Delete it, and give the same command again."

    epochs: Whole
    row: dict[str, float | None]
    losses: tuple[Quantity | None, ...]
    accuracies: tuple[Fraction | None, ...]
    seconds: Seconds
    precision: str
    frozen_precision: str
    why: str | None = None


@dataclass
class SearchTrainings:
    """Trainings on the same images and the same split; the pixels stay open from one to the next.

    Attributes:
        folder: folder of the figures and of the training in progress.
        stop: a training that sees this signal saves and ends.
    """

    dataset: Dataset
    options: RunOptions
    folder: Path
    stop: StopSignal
    _images: dict[Preprocessing, Images] = field(default_factory=dict, init=False)
    _precision: dict[str, Any] = field(default_factory=dict, init=False)

    def split(self, recipe: ResolvedRecipe) -> Split:
        """Split of the images, the same for every training.

        Raises:
            DataError: images cannot be used.
            ConfigError: there are no validation images.
        """
        return self._split(recipe, self._load(recipe))

    def of(self, recipe: ResolvedRecipe) -> Trained:
        """Figures of a training: read if it was done before, else trained, or resumed.

        Raises:
            InterruptedRunError: stopped and saved.
            LoupeError: the images or the memory do not suffice.
        """
        path = self.folder / f"{_key(recipe)}.json"
        known = Trained.read_if_there(path)
        if known is None:
            known = self._train(recipe, path.with_suffix(""))
            self.folder.mkdir(parents=True, exist_ok=True)
            known.write(path)
        if not self._precision:  # all have the precision that the first one measured
            self._precision = {"precision": known.precision, "frozen_precision": known.frozen_precision}
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)
        return known

    def is_known(self, recipe: ResolvedRecipe) -> bool:
        """True if the figures are there, so that the training takes no time."""
        return (self.folder / f"{_key(recipe)}.json").is_file()

    def _train(self, recipe: ResolvedRecipe, folder: Path) -> Trained:
        began = time.perf_counter()
        if self._precision:
            recipe = recipe.computed_in(**self._precision)
        try:
            with terminal(quiet=True):
                images = self._load(recipe)
                divided = self._split(recipe, images)
                if recipe.input.range == "used":
                    recipe = recipe.scaled(used_levels(images.table, divided.train))
                    images = self._load(recipe)
                if recipe.leaves_flips_open:
                    recipe, _ = mirrored(recipe, images, divided.train)
                keep_freed_memory()
                setup = set_up(recipe, images, divided, choose_device(self.options.device))
                state = self._fit(setup, folder)
        except DivergedError as error:
            used = self._precision or {"precision": recipe.precision, "frozen_precision": recipe.frozen_precision}
            return Trained(
                epochs=epochs_in_steps(recipe),
                row={},
                losses=(),
                accuracies=(),
                seconds=round(time.perf_counter() - began, 3),
                **used,
                why=str(error),
            )
        finally:
            give_back_memory()
        history = state.history
        kept = history[kept_epoch(setup.recipe, state) - 1]
        return Trained(
            epochs=sum(not recipe.stages[int(row["stage"]) - 1].is_solved for row in history),
            row={key: kept[key] for key in MEASURED},
            losses=tuple(row["val_loss"] for row in history),
            accuracies=tuple(row["val_accuracy"] for row in history),
            seconds=round(time.perf_counter() - began, 3),
            precision=setup.recipe.precision,
            frozen_precision=setup.recipe.frozen_precision,
        )

    def _fit(self, setup: TrainingSetup, folder: Path) -> TrainState:
        """Train from the last checkpoint on; the state at the end.

        Raises:
            InterruptedRunError: stopped and saved.
        """
        recipe, split = setup.recipe, setup.split

        def validate(network: Classifier, stage_data: StageData) -> dict[str, Any]:
            first = stage_data.validation_first
            logits_NK = inference.logits(network, stage_data.validation, split.val, setup.compute, first)
            return inference.scores(logits_NK, setup.images.table.labels[split.val])

        preparation = StageDataBuilder(
            model=setup.model,
            network=trunk_key(recipe.model),
            loader=setup.loader,
            content=setup.images.content,
            train_N=split.train,
            test_N=split.test[:0],  # locked
            seed=recipe.seed,
            folder=cache_folder() / "frozen",
            compute=setup.compute,
            frozen_compute=setup.frozen_compute,
            stop=self.stop,
            engines=setup.engines,
        )
        trainer = Trainer(
            setup.model,
            stages=recipe.stages,
            prepare=preparation.of,
            train_N=split.train,
            validate=validate,
            checkpoints=Checkpoints(folder),
            on_epoch=lambda history: None,
            compute=setup.compute,
            class_weights_K=setup.class_weights_K,
            monitor=recipe.monitor,
            keep_best=False,  # the weights of a search are not kept; its figures are those of the best epoch
            stop=self.stop,
            order=epoch_order(setup.images.table, recipe.shuffle_window),
            log_prior_K=setup.log_prior_K,
            teaching=setup.teaching,
        )
        try:
            state = trainer.fit()
        except StoppedError:
            raise self.interrupted() from None
        if state.stage < len(recipe.stages):
            raise self.interrupted()
        return state

    def interrupted(self) -> InterruptedRunError:
        """Error of a search that was stopped and saved."""
        return InterruptedRunError("stopped and saved. To resume, give the same command again.", self.stop.number)

    def _load(self, recipe: ResolvedRecipe) -> Images:
        """Readable images; those of the newest settings of the pixels stay open."""
        pixels = recipe.preprocessing.model_copy(update={"mean": (0.0,) * 3, "std": (1.0,) * 3})
        if pixels not in self._images:
            loaded = load_images(self.dataset, pixels, cache=cache_folder(), skip_damaged=self.options.skip_damaged)
            self._images = {pixels: loaded}
        return self._images[pixels]

    def _split(self, recipe: ResolvedRecipe, images: Images) -> Split:
        def redraw(spec: Any) -> Split:
            return splits.assign(images.table, images.content, spec, recipe.split_seed)

        divided = redraw(recipe.split)
        check_split(recipe, divided, redraw)
        return divided


def _key(recipe: ResolvedRecipe) -> str:
    """Key of a training: all of its recipe that changes the result, with the weights of its teacher."""
    named = recipe.model_copy(update={"name": "", "description": ""})
    text = named.model_dump_json() + (teacher.weights_hash(recipe) or "")
    return hashlib.sha256(text.encode()).hexdigest()[:16]
