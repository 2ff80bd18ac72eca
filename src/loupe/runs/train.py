"""Functions `train`, `resume` and `load`. The recipe is resolved and set up here; `session.py` trains it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from loupe import provenance, ranks, rundir
from loupe.cache import cache_folder
from loupe.config.network import is_random
from loupe.config.overrides import differences
from loupe.config.recipe import Recipe, SplitSpec
from loupe.config.resolved import ResolvedRecipe
from loupe.data.dataset import Dataset, is_gone, open_dataset
from loupe.data.elsewhere import Elsewhere
from loupe.data.pixels.prepare import Images, load_images, used_levels
from loupe.data.sources.datasets import DATASETS
from loupe.data.sources.folders import classes_before_numbers
from loupe.data.sources.read_options import ColumnNames, ReadOptions
from loupe.data.splits import split as splits
from loupe.data.splits import split_file
from loupe.data.splits.split import Split
from loupe.data.table import ImageTable
from loupe.devices import choose_device, give_back_memory, gpu_name, keep_freed_memory, use_threads
from loupe.errors import DataError, InterruptedRunError, RunElsewhereError, RunStateError, counted, memory_remedy
from loupe.evaluate.results import results_file
from loupe.log import RunLog, command_line, logger, run_log, terminal
from loupe.models.pretrained import check_weights, weights_files
from loupe.provenance import RunEnvironment
from loupe.ranks import Ranks
from loupe.recipes.resolve import resolve
from loupe.recipes.validate import check_buildable
from loupe.report import run_page
from loupe.rundir import RunDirectory
from loupe.runs import parents
from loupe.runs import teacher as teachers
from loupe.runs.agreement import check_agreement
from loupe.runs.balance_note import balance_note
from loupe.runs.check_split import check_split, strength_folds
from loupe.runs.folds import check_refit
from loupe.runs.mirrored import mirrored
from loupe.runs.near_note import near_note
from loupe.runs.run import Run
from loupe.runs.session import Session
from loupe.runs.setup import TrainingSetup, less_memory, set_up
from loupe.track.tracking import check_tracker, recorded_tracker, tracked
from loupe.training.checkpoint import Checkpoints

Splitter = Callable[[ImageTable, Sequence[str], SplitSpec, int], Split]

__all__ = ["InterruptedRunError", "Run", "load", "resume", "train"]


def train(
    data: Any,
    *,
    columns: ColumnNames | None = None,
    images: str | Path | None = None,
    follow_links: bool = False,
    recipe: str | Path | Recipe | None = None,
    model: str | None = None,
    weights: str | Path | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    precision: str | None = None,
    refit: bool | None = None,
    teacher: str | Path | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    device: str = "auto",
    output: str | Path = "runs",
    name: str | None = None,
    split: Splitter = splits.assign,
    skip_damaged: bool = False,
    open_test: bool = True,
    verify: bool = False,
    track: str | None = None,
    quiet: bool = False,
) -> Run:
    """Train a classifier on labelled images, evaluate it, and write everything into a new run directory.

    Args:
        data: folder, CSV, TSV, JSONL, Parquet, CIFAR archive or .npz file; name of a data set; or arrays (x, y).
        columns: column of each role in a list of images, where its name does not say it: {"path": "image_id", "label":
            "diagnosis", "group": "patient_id"}, or "path=image_id,label=diagnosis".
        images: folder of the images that a list names.
        follow_links: also read files outside the folder of the data, to which links, `..` or absolute paths lead.
        recipe: name, YAML file or Recipe; None to choose by the images.
        model, weights, epochs, batch_size, lr, seed, precision: values in place of the recipe's. `model` is a network
            of Loupe or timm; `weights` is `timm` (download), `none`, a file, a run (its folder or its name in
            `output`), `hf-hub:NAME` or `local-dir:DIR`. With optimizer `logistic`, `epochs` is the number of L2
            strengths; `batch_size` and `lr` then do not apply.
        refit: learn from training and validation images together at the end, and give figures of folds, of recipes that
            only solve a head on frozen features. Default: as the recipe says.
        teacher: finished run, its folder or its name in `output`, whose probabilities are learned beside the labels.
        settings: other recipe keys: `{"stages.0.schedule": "one-cycle"}` or `["stages.0.schedule=one-cycle"]`.
        device: auto, cpu, cuda, cuda:N or mps.
        output: folder of the runs.
        name: name of this run. Default: DATA-RECIPE.
        split: function that splits the images, given their table, hashes, the recipe's split settings and the seed.
        skip_damaged: leave damaged images out and count them, instead of stopping.
        open_test: evaluate test images; if False, they stay unused until `loupe.runs.finalize.open_test`.
        verify: hash every image anew, without remembered hashes.
        track: tracker that settings, metrics and results are sent to: mlflow, tensorboard, trackio or wandb.
        quiet: print nothing.

    Raises:
        DataError: images, labels or splits that cannot be used.
        ConfigError: an unknown or invalid recipe, setting, name or option.
        DiskError: the run cannot be written.
        NotEnoughMemoryError: too little memory.
        DivergedError: the loss is no longer finite.
        InterruptedRunError: stopped by Ctrl-C or SIGTERM, saved, ready for `resume`.
        RanksDifferError: the processes of this command have other images, recipes or versions.
        LostRankError: another process of this command has ended; what was saved can be resumed.
        RunElsewhereError: the run is finished, on the machine of rank 0, whose disk this one does not share.
    """
    began = time.perf_counter()
    with ranks.joined() as joined, terminal(quiet=quiet), run_log() as log:
        chosen_device = choose_device(device)
        joined.from_main(lambda: rundir.check_name(Path(output), name))
        joined.from_main(lambda: check_tracker(track))
        dataset = open_dataset(data, ReadOptions.of(columns, images, follow_links), verify=verify)
        table = dataset.table
        flags = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed, "precision": precision}
        flags |= {"refit": refit, "teacher": joined.from_main(lambda: teachers.absolute(teacher, Path(output)))}
        start = joined.from_main(lambda: parents.named(weights, Path(output)))
        chosen = resolve(recipe, dataset, model=model, weights=start, flags=flags, extra=settings)
        check_buildable(chosen, table.classes)
        check_weights(chosen.model)
        joined.from_main(lambda: teachers.check(chosen, table.classes))
        if chosen.stages[0].part != "all" and is_random(chosen.model):
            logger.warning(
                f"the frozen blocks of {chosen.model.name} have random weights. Trained: {chosen.stages[0].part}."
            )
        loaded = _load(chosen, dataset, skip_damaged)
        check_agreement(joined, chosen, loaded)
        divided = joined.from_main(lambda: _divided(chosen, loaded, split))
        for note in divided.notes:
            logger.info(note)
        looks = split is splits.assign and open_test and joined.is_main and dataset.source not in DATASETS
        told = (near_note(loaded, divided, chosen.split), balance_note(loaded.table, divided, chosen)) if looks else ()
        for advice in filter(None, told):
            logger.info(advice)
        if chosen.input.range == "used":
            chosen = chosen.scaled(used_levels(loaded.table, divided.train))
            loaded = replace(_load(chosen, Dataset(dataset.source, loaded.table), False), damaged=loaded.damaged)
        chosen, mirroring = _mirrored(chosen, loaded, divided, joined)
        parent = joined.from_main(lambda: parents.record(chosen, table.classes, divided, loaded.content))
        taught_by = joined.from_main(lambda: teachers.record(chosen, divided, loaded.content))
        setup = _set_up(chosen, loaded, divided, chosen_device)
        used = chosen_device.type if joined.count > 1 else str(chosen_device)  # each rank has a GPU of its own

        def environment() -> RunEnvironment:
            return RunEnvironment.model_validate(
                {
                    **provenance.environment(used, gpu_name(chosen_device), torch.get_num_threads()).to_json(),
                    **{"data": dataset.source, "skip_damaged": skip_damaged, "open_test": open_test},
                    "processes": joined.count,
                    **({} if table.elsewhere is None else _recorded_elsewhere(table.elsewhere)),
                    **dataset.options.to_json(),
                    **({} if parent is None else {"parent": parent}),
                    **({} if taught_by is None else {"teacher": taught_by}),
                    "classes": table.classes,
                    "choices": setup.choices | mirroring,
                    "hashes": provenance.hashes(
                        loaded.table, loaded.content, divided, weights_files(chosen.model), setup.recipe
                    ),
                }
            )

        default = chosen.name if table.name == chosen.name else f"{table.name}-{chosen.name}"
        directory = joined.from_main(lambda: rundir.create_run(Path(output), name, default))
        with directory.locked():
            joined.from_main(lambda: _write_start(directory, setup, environment()))
            _train(directory, setup, began, open_test, track, log)
        return _open(directory, chosen_device, quiet)


def resume(
    run: str | Path,
    data: Any = None,
    *,
    images: str | Path | None = None,
    follow_links: bool = False,
    output: str | Path = "runs",
    device: str | None = None,
    open_test: bool = True,
    verify: bool = False,
    track: str | None = None,
    quiet: bool = False,
) -> Run:
    """Resume an interrupted run. The results are those of a run without interruption.

    Args:
        run: directory of the run, or its name in the folder `output`.
        data: images, if the run was trained on arrays or the data has moved.
        images: folder of the images of a list, if it has moved.
        follow_links: also read files outside the folder of the data, even if the run was begun without them.
        output: folder of the runs.
        device: None for the run's own.
        open_test: False to leave the test images unused, even if the run was begun with them.
        verify: hash every image anew, without remembered hashes.
        track: tracker; None for the one that the run was begun with, `none` to go on without it.
        quiet: print nothing.

    Raises:
        RunStateError: no such run, its split or its recipe has changed, or its checkpoints are damaged.
        DataError: its data is missing or has changed.
        InterruptedRunError: stopped again, and saved.
    """
    began = time.perf_counter()
    with ranks.joined() as joined, terminal(quiet=quiet), run_log() as log:
        directory = joined.from_main(lambda: rundir.open_run(run, Path(output)))
        with directory.locked():
            if joined.from_main(lambda: results_file(directory).is_file()):
                joined.from_main(lambda: _finish(directory))
                return _open(directory, choose_device(device or "auto"), quiet)
            track = joined.from_main(lambda: _checked_tracker(directory, track))
            environment, stored = joined.from_main(lambda: _recorded(directory))
            source = _source(directory, environment, data)
            chosen_device = choose_device(device or _device(environment, joined))
            _use_recorded_threads(environment, joined)
            recipe = ResolvedRecipe.of(stored)
            options = environment.read_options(images, follow_links=follow_links)
            dataset = open_dataset(source, options, verify=verify)
            provenance.check_versions(environment, dataset.table)
            loaded = _load(recipe, dataset, environment.skip_damaged)
            classes = environment.classes or classes_before_numbers(dataset.table)
            loaded = replace(loaded, table=loaded.table.with_classes(classes))
            check_agreement(joined, recipe, loaded)
            split = joined.from_main(lambda: split_file.read(directory.file("split.csv"), loaded.table, loaded.content))
            joined.from_main(lambda: teachers.check_unchanged(recipe, directory))
            logger.info(f"resuming {directory.path}")
            pretrained = joined.from_main(lambda: not Checkpoints(directory.checkpoints).begun)
            setup = _set_up(recipe, loaded, split, chosen_device, pretrained=pretrained)
            # An earlier version wrote the recipe before measuring all of it, and no hash of it.
            if environment.hashes.recipe is None and differences(setup.recipe, stored):
                joined.from_main(lambda: directory.write_recipe(setup.recipe))
            _train(directory, setup, began, open_test and environment.open_test, track, log)
        return _open(directory, chosen_device, quiet)


def _divided(recipe: ResolvedRecipe, images: Images, split: Splitter) -> Split:
    """Split of the images, which is of use for this recipe.

    Raises:
        DataError: it is not.
    """
    divided = split(images.table, images.content, recipe.split, recipe.split_seed)
    check_split(recipe, divided, lambda spec: split(images.table, images.content, spec, recipe.split_seed))
    strength_folds(recipe, images, divided)
    check_refit(recipe, images, divided)
    return divided


def _mirrored(
    recipe: ResolvedRecipe, images: Images, split: Split, joined: Ranks
) -> tuple[ResolvedRecipe, dict[str, str]]:
    """Recipe with its horizontal flips decided by the training images, and the reason if it left them open."""
    if not recipe.leaves_flips_open:
        return recipe, {}
    decided, reason = joined.from_main(lambda: mirrored(recipe, images, split.train))
    logger.info(reason)
    return decided, {"mirrored": reason}


def _write_start(directory: RunDirectory, setup: TrainingSetup, environment: RunEnvironment) -> None:
    """Write what a run has from its start on."""
    images = setup.images
    split_file.write(directory.file("split.csv"), images.table, images.content, setup.split)
    environment.write(provenance.environment_file(directory))
    directory.write_recipe(setup.recipe)  # last: a folder with this file is a run


def _train(
    directory: RunDirectory, setup: TrainingSetup, began: float, open_test: bool, track: str | None, log: RunLog
) -> None:
    """Train a run that is locked to its end; rank 0 logs and tracks it."""
    if not ranks.is_main():
        Session(directory, setup, began, open_test).run()
        return
    ranks.tell_launcher(directory.resume_command)
    log.write_to(directory.file("train.log"))
    with tracked(directory, track) as send:
        Session(directory, setup, began, open_test, send).run()
        if setup.teaching is not None:
            teachers.judge(directory, setup.teaching, setup.images, setup.split, setup.compute.device)


def _open(directory: RunDirectory, device: torch.device, quiet: bool) -> Run:
    """Finished run.

    Raises:
        RunElsewhereError: its folder is on the machine of rank 0, and this is another.
    """
    if not ranks.is_main() and not results_file(directory).is_file():
        raise RunElsewhereError(f"{directory.path} is on the machine of process 1, and cannot be read on this one.")
    return Run(directory, device=str(device) if ranks.processes() == 1 else device.type, quiet=quiet)


def _finish(directory: RunDirectory) -> None:
    """Write the report of a run whose process ended between results.json and report.html."""
    if directory.report.is_file():
        logger.info(
            f"{directory.path} is already finished. To train on from its weights, in a new run: "
            f"{parents.continuation(directory)}"
        )
        return
    run_page.write_page(directory.path)
    logger.info(f"{directory.path} is finished. Its report was missing and was written now.")


def _checked_tracker(directory: RunDirectory, track: str | None) -> str | None:
    """Tracker of a run that is resumed: `track`, or that which it was begun with.

    Raises:
        ConfigError: it cannot be used.
    """
    track = recorded_tracker(directory) if track is None else track
    check_tracker(track)
    return track


def _recorded(directory: RunDirectory) -> tuple[RunEnvironment, Recipe]:
    """Recorded environment and recipe of a run, whose recipe and split are as they were written.

    Raises:
        RunStateError: they are not.
    """
    provenance.check_recipe(directory)
    provenance.check_split(directory)
    environment = provenance.environment_of(directory)
    if environment.made_of:
        raise RunStateError(
            f"{directory.path} was being made of other runs when its process ended. Delete it, and make it again: "
            f"{command_line(environment.made_command)}"
        )
    return environment, directory.read_recipe()


def _device(environment: RunEnvironment, joined: Ranks) -> str:
    """Recorded device, or its kind where each of several ranks has one."""
    recorded = environment.device or "auto"
    return recorded if joined.alone else recorded.partition(":")[0]


def _use_recorded_threads(environment: RunEnvironment, joined: Ranks) -> None:
    """Use as many threads as the run began with, for the same bits, unless it began in another number of processes."""
    begun = environment.processes or 1
    if begun != joined.count:
        logger.info(
            f"{counted(joined.count, 'process', 'processes')}, where the run began with {begun}: the order of the "
            "images is the same; the last digits may differ."
        )
    elif environment.threads:
        use_threads(environment.threads)


def _recorded_elsewhere(data: Elsewhere) -> dict[str, Any]:
    return {"versions": dict(data.versions), **({"credentials": True} if data.credentials else {})}


def _source(directory: RunDirectory, environment: RunEnvironment, data: Any) -> Any:
    """Images of a run to be resumed: `data`, or those that it was begun with.

    Raises:
        DataError: they were arrays, have moved, or have an address with credentials.
    """
    if data is not None:
        return data
    if environment.data is None:
        raise DataError(f"{directory.path} was trained on arrays, which are not stored. Give the data again.")
    again = f"loupe train DATA --resume {command_line([str(directory.path)])}"
    provenance.check_credentials(environment, directory, f"Give the address with them: {again}")
    if is_gone(environment.data):
        raise DataError(
            f"the images of {directory.path} are no longer at {environment.data}. Give their new place: {again}"
        )
    return environment.data


def load(run: str | Path, *, device: str = "auto", tta: str | None = None) -> Run:
    """Open a finished run, to predict and evaluate.

    Args:
        run: directory of the run, or its name in ./runs.
        tta: test-time augmentation of everything that it predicts: `flip` or `flip-shift`. Default: none.

    Raises:
        RunStateError: it is missing, unfinished or damaged.
        ConfigError: the device or the augmentation is unknown.
    """
    return Run(rundir.open_run(run), device=device, tta=tta)


def _load(recipe: ResolvedRecipe, dataset: Dataset, skip_damaged: bool) -> Images:
    return load_images(dataset, recipe.preprocessing, cache=cache_folder(), skip_damaged=skip_damaged)


def _set_up(
    recipe: ResolvedRecipe, images: Images, split: Split, device: torch.device, *, pretrained: bool = True
) -> TrainingSetup:
    """Set up the training before the run has a directory, so that a failure leaves nothing behind."""
    keep_freed_memory()
    with memory_remedy(f"{less_memory(recipe)}."):
        try:
            return set_up(recipe, images, split, device, pretrained=pretrained)
        except BaseException:
            give_back_memory()
            raise
