"""The front door: train, resume, load. A recipe is resolved and set up here; `session.py` trains it."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from loupe import provenance, rundir
from loupe.cache import cache_folder
from loupe.config.optimizer import Logistic, Plateau
from loupe.config.overrides import differences
from loupe.config.recipe import Recipe, SplitSpec
from loupe.config.resolved import ResolvedRecipe
from loupe.data.dataset import Dataset, open_dataset
from loupe.data.pixels.prepare import Images, load_images
from loupe.data.splits import split as splits
from loupe.data.splits.split import Split
from loupe.data.table import ImageTable
from loupe.devices import choose_device, give_back_memory, gpu_name, keep_freed_memory, use_threads
from loupe.errors import ConfigError, DataError, InterruptedRunError, memory_remedy
from loupe.evaluate.results import results_file
from loupe.log import logger, run_log, terminal
from loupe.models.pretrained import check_weights, weights_file
from loupe.provenance import RunEnvironment
from loupe.recipes.resolve import resolve
from loupe.recipes.validate import check_buildable
from loupe.runs.run import Run
from loupe.runs.session import Session
from loupe.runs.setup import TrainingSetup, less_memory, set_up
from loupe.training.checkpoint import Checkpoints

Splitter = Callable[[ImageTable, Sequence[str], SplitSpec, int], Split]

__all__ = ["InterruptedRunError", "Run", "load", "resume", "train"]


def train(
    data: Any,
    *,
    recipe: str | Path | Recipe | None = None,
    model: str | None = None,
    weights: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    precision: str | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    device: str = "auto",
    output: str | Path = "runs",
    name: str | None = None,
    split: Splitter = splits.assign,
    skip_damaged: bool = False,
    open_test: bool = True,
    quiet: bool = False,
) -> Run:
    """Trains a classifier on labelled images and evaluates it; everything is written into a new run directory.

    Args:
        data: a folder, CSV, Parquet, CIFAR archive or .npz file; the name of a data set; or arrays (x, y).
        recipe: a name, a YAML file or a Recipe; None chooses by the images.
        model, weights, epochs, batch_size, lr, seed, precision: in place of what the recipe says. A model is one of
            ours or of timm; weights are `timm` (its hub), `none`, a file, or an `hf-hub:` or `local-dir:` name. Where a
            head is solved, its epochs are the penalties tried; batch size and learning rate are of other stages.
        settings: other keys of the recipe: `{"stages.0.schedule": "one-cycle"}` or `["stages.0.schedule=one-cycle"]`.
        device: auto, cpu, cuda, cuda:N or mps.
        output: the folder that holds the runs; name: of this run in it.
        split: what divides the images, from their table, hashes, the recipe's split and its seed.
        skip_damaged: leave damaged images out (and count them) in place of stopping.
        open_test: evaluate the test images too; if not, they stay locked until `loupe.runs.finalize.open_test`.

    Raises:
        LoupeError: something that the caller can put right; it says what and how.
        InterruptedRunError: stopped by Ctrl-C or SIGTERM, saved, ready for `resume`.
    """
    began, place = time.perf_counter(), choose_device(device)
    with terminal(quiet=quiet), run_log() as log:
        rundir.check_name(Path(output), name)
        dataset = open_dataset(data)
        table = dataset.table
        flags = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed, "precision": precision}
        chosen = resolve(recipe, dataset, model=model, weights=weights, flags=flags, extra=settings)
        check_buildable(chosen, table.classes)
        check_weights(chosen.model)
        if chosen.stages[0].part != "all" and getattr(chosen.model, "weights", "none") == "none":
            logger.warning(
                f"what is frozen has random weights: only the {chosen.stages[0].part} of {chosen.model.name} learns."
            )
        images = _load(chosen, dataset, skip_damaged)
        parts = split(images.table, images.content, chosen.split, chosen.split_seed)
        _check_split(chosen, parts)
        for note in parts.notes:
            logger.info(note)
        setup = _set_up(chosen, images, parts, place)
        environment = RunEnvironment.model_validate(
            {
                **provenance.environment(str(place), gpu_name(place), torch.get_num_threads()).to_json(),
                **{"data": dataset.source, "skip_damaged": skip_damaged, "open_test": open_test},
                "hashes": provenance.hashes(images.table, images.content, parts, weights_file(chosen.model)),
            }
        )
        default = chosen.name if table.name == chosen.name else f"{table.name}-{chosen.name}"
        directory = rundir.create_run(Path(output), name, default)
        with directory.locked():
            splits.write(directory.file("split.csv"), images.table, images.content, parts)
            environment.write(provenance.environment_file(directory))
            directory.write_recipe(setup.recipe)  # the last of them: with it, there is a run
            log.write_to(directory.file("train.log"))
            Session(directory, setup, began, open_test).run()
    return Run(directory, device=str(place), quiet=quiet)


def resume(
    run: str | Path,
    data: Any = None,
    *,
    output: str | Path = "runs",
    device: str | None = None,
    open_test: bool = True,
    quiet: bool = False,
) -> Run:
    """Goes on with a run that was interrupted, to the same end as if it had not been.

    Args:
        run: its directory, or its name in the folder `output`.
        data: the images again, where the run was trained on arrays or the data has moved.
        device: None takes the run's own.
        open_test: off keeps the test images locked, also where the run was begun to open them.

    Raises:
        LoupeError: no such run, its data cannot be found or has changed, or its checkpoints are damaged.
    """
    began = time.perf_counter()
    with terminal(quiet=quiet), run_log() as log:
        directory = rundir.open_run(run, Path(output))
        with directory.locked():
            if results_file(directory).is_file():
                logger.info(f"{directory.path} is already finished.")
                return Run(directory, device=device or "auto", quiet=quiet)
            environment = provenance.environment_of(directory)
            source = data if data is not None else environment.data
            if source is None:
                raise DataError(f"{directory.path} was trained on arrays, which are not stored. Give the data again.")
            place = choose_device(device or environment.device or "auto")
            if environment.threads:
                use_threads(environment.threads)
            stored = directory.read_recipe()
            recipe = ResolvedRecipe.of(stored)
            images = _load(recipe, open_dataset(source), environment.skip_damaged)
            split = splits.read(directory.file("split.csv"), images.table, images.content)
            logger.info(f"going on with {directory.path}")
            log.write_to(directory.file("train.log"))
            setup = _set_up(recipe, images, split, place, pretrained=not Checkpoints(directory.checkpoints).begun)
            if differences(setup.recipe, stored):  # an earlier version recorded a recipe before all of it was measured
                directory.write_recipe(setup.recipe)
            open_test = open_test and environment.open_test
            Session(directory, setup, began, open_test).run()
    return Run(directory, device=str(place), quiet=quiet)


def load(run: str | Path, *, device: str = "auto") -> Run:
    """A finished run, ready to predict and to evaluate; `run` is its directory, or its name in ./runs."""
    return Run(rundir.open_run(run), device=device)


def _load(recipe: ResolvedRecipe, dataset: Dataset, skip_damaged: bool) -> Images:
    return load_images(dataset, recipe.preprocessing, cache=cache_folder(), skip_damaged=skip_damaged)


def _set_up(
    recipe: ResolvedRecipe, images: Images, split: Split, device: torch.device, *, pretrained: bool = True
) -> TrainingSetup:
    """All that the run trains with, before it has a directory: a run that cannot be set up leaves nothing behind."""
    keep_freed_memory()
    with memory_remedy(f"{less_memory(recipe)}."):
        try:
            return set_up(recipe, images, split, device, pretrained=pretrained)
        except BaseException:
            give_back_memory()
            raise


def _check_split(recipe: Recipe, split: Split) -> None:
    """A rule that looks at validation images needs some."""
    watchful = any(
        stage.patience_epochs
        or isinstance(stage.schedule, Plateau)
        or (isinstance(stage.optimizer, Logistic) and stage.epochs > 1)
        for stage in recipe.stages
    )
    if not watchful and not len(split.val):
        logger.info("there are no validation images: the weights of the last epoch are kept.")
    if watchful and not len(split.val):
        raise ConfigError(
            "early stopping, the plateau schedule and the choice of a penalty need validation images. Set "
            "split.validation above 0."
        )
