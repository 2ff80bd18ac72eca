"""Runs that are made of trained runs, without training: their evaluation, model, predictions, results and report."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from loupe import provenance, ranks, rundir
from loupe.cache import cache_folder
from loupe.config.resolved import ResolvedRecipe
from loupe.data.pixels.batches import BatchLoader
from loupe.data.pixels.prepare import Images
from loupe.data.splits import split_file
from loupe.data.splits.split import Split
from loupe.devices import Compute, StopSignal, choose_device, give_back_memory, gpu_name
from loupe.errors import ConfigError, LoupeError
from loupe.log import run_log, terminal
from loupe.models.classifier import Classifier
from loupe.models.engine import Engines
from loupe.models.pretrained import weights_origin
from loupe.provenance import MadeOf, RunEnvironment, environment_of, of_file, recorded_licence
from loupe.rundir import RunDirectory
from loupe.runs import parents
from loupe.runs.finalize import RunFinalizer
from loupe.runs.run import Run
from loupe.training.stage_data import StageDataBuilder
from loupe.training.train_state import TrainState

# Fields of environment.json that say how the images were read.
OF_DATA = ("data", "credentials", "versions", "columns", "image_folder", "follow_links", "skip_damaged")


def write(
    model: Classifier,
    recipe: ResolvedRecipe,
    runs: Sequence[Run],
    made_of: Sequence[MadeOf],
    *,
    output: Path,
    name: str | None,
    open_test: bool,
    device: str,
    quiet: bool,
) -> Run:
    """Write a complete run of a model that was made of trained runs; without one, nothing is left behind.

    Args:
        model: network with its final weights, on the CPU.
        recipe: recipe of the new run.
        runs: runs that it is made of. Images and split are those of the first.
        made_of: record of each.
        output: folder of the new run.
        name: its name; None for DATA-RECIPE.

    Raises:
        ConfigError: the name cannot be used, or several processes run this.
        DataError: the images of the first run are missing or have changed.
        DiskError: the run cannot be written.
    """
    began = time.perf_counter()
    if not ranks.current().alone:
        raise ConfigError("a run is made of trained runs in one process. Start it without torchrun and --processes.")
    with terminal(quiet=quiet), run_log() as log:
        rundir.check_name(output, name)
        chosen = choose_device(device)
        images, split = runs[0].own_images(preprocessing=model.preprocessing)
        compute = Compute(chosen, precision_of(runs))
        recipe = recipe.computed_in(compute.precision, compute.precision)
        environment = _environment(runs, made_of, recipe, images, split, compute, open_test)
        default = recipe.name if images.table.name == recipe.name else f"{images.table.name}-{recipe.name}"
        directory = rundir.create_run(output, name, default)
        with directory.locked():
            try:
                log.write_to(directory.file("train.log"))
                _write_start(directory, recipe, images, split, environment)
                _finish(directory, recipe, images, split, model, compute, open_test, time.perf_counter() - began)
            except BaseException:
                shutil.rmtree(directory.path, ignore_errors=True)  # made again in seconds
                raise
            finally:
                give_back_memory()
        return Run(directory, device=str(chosen), quiet=quiet)


def _write_start(
    directory: RunDirectory, recipe: ResolvedRecipe, images: Images, split: Split, environment: RunEnvironment
) -> None:
    split_file.write(directory.file("split.csv"), images.table, images.content, split)
    environment.write(provenance.environment_file(directory))
    directory.write_recipe(recipe)


def _finish(
    directory: RunDirectory,
    recipe: ResolvedRecipe,
    images: Images,
    split: Split,
    model: Classifier,
    compute: Compute,
    open_test: bool,
    load_seconds: float,
) -> None:
    model = model.to(compute.device).eval()
    preparation = StageDataBuilder(
        model=model,
        network="",  # nothing is frozen
        loader=BatchLoader(images.store, images.table.labels, compute.device),
        content=images.content,
        train_N=split.train,
        test_N=split.test,
        seed=recipe.seed,
        folder=cache_folder() / "frozen",
        compute=compute,
        frozen_compute=compute,
        stop=StopSignal(),
        engines=Engines(),
    )
    finalizer = RunFinalizer(directory, recipe, images, split, open_test, ranks.current())
    finalizer.write(model, preparation, TrainState(), load_seconds)


def _environment(
    runs: Sequence[Run],
    made_of: Sequence[MadeOf],
    recipe: ResolvedRecipe,
    images: Images,
    split: Split,
    compute: Compute,
    open_test: bool,
) -> RunEnvironment:
    first: dict[str, Any] = environment_of(runs[0].directory).to_json()
    weights = [run.directory.model / "weights.safetensors" for run in runs]
    return RunEnvironment.model_validate(
        {
            **provenance.environment(str(compute.device), gpu_name(compute.device), torch.get_num_threads()).to_json(),
            **{key: first[key] for key in OF_DATA if key in first},
            "open_test": open_test,
            "processes": 1,
            "classes": images.table.classes,
            "hashes": provenance.hashes(images.table, images.content, split, weights, recipe),
            "made_of": tuple(made_of),
        }
    )


def precision_of(runs: Sequence[Run]) -> Any:
    """Precision of the members, where it is the same; else fp32."""
    precisions = {run.config.precision for run in runs}
    return precisions.pop() if len(precisions) == 1 else "fp32"


def record(run: Run, share: float | None = None) -> MadeOf:
    """Record of a run that another one is made of."""
    try:
        known = recorded_licence(run.directory)
        origin = weights_origin(run.config.network, known)
    except LoupeError:  # weights that are gone
        known, origin = None, None
    return MadeOf(
        name=run.directory.name,
        path=str(run.path.resolve()),
        weights=of_file(run.directory.model / "weights.safetensors"),
        network=run.config.network.name,
        share=share,
        licence=known if origin is None else origin.licence,
    )


def trained_on(run: Run) -> set[str]:
    """Hashes of the images that a run, or one before it, was trained on, as far as they are known."""
    return parents.trained_on(run.path)[0]
