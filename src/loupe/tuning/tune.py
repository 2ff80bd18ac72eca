"""Search for the settings of a recipe: trials on validation images, then a confirmation on other seeds.

Test images stay locked during the search and the confirmation. They are evaluated once, for one run of the chosen
settings. Files: NAME.json, NAME.html, NAME.yaml (the best settings as a recipe), and NAME/ with the figures of each
training, from which the same command goes on.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from loupe.data.dataset import open_dataset
from loupe.data.sources.read_options import ColumnNames, ReadOptions
from loupe.devices import StopSignal
from loupe.errors import ConfigError, counted
from loupe.evaluate.tune_results import TuneResults
from loupe.log import duration, logger, terminal
from loupe.ranks import current
from loupe.runs import parents
from loupe.runs import teacher as teachers
from loupe.runs.options import RunOptions
from loupe.tuning import conclude, files
from loupe.tuning.recipes import TunedRecipe
from loupe.tuning.request import TuneRequest, seconds_in
from loupe.tuning.search import Search
from loupe.tuning.space import SearchKey
from loupe.tuning.study import check_installed
from loupe.tuning.trainings import SearchTrainings


def tune(
    data: Any,
    *,
    columns: ColumnNames | None = None,
    images: str | Path | None = None,
    follow_links: bool = False,
    recipe: str | Path | None = None,
    search: Sequence[str] = (),
    model: str | None = None,
    weights: str | Path | None = None,
    settings: Sequence[str] = (),
    trials: int = 30,
    time_limit: float | str | None = None,
    confirm: int = 3,
    seed: int = 0,
    device: str = "auto",
    output: str | Path = "runs",
    name: str | None = None,
    skip_damaged: bool = False,
    verify: bool = False,
    quiet: bool = False,
) -> TuneResults:
    """Search for better settings of a recipe, and write NAME.json, NAME.html and the recipe NAME.yaml into `output`.

    The same call goes on where it was stopped, with the same trials as without a stop; with more `trials` or a longer
    `time_limit` it goes on with more.

    Args:
        data, columns, images, follow_links: as for `loupe.train`.
        recipe: name or YAML file; None to choose by the images.
        search: keys with their values, `"stages.0.lr=1e-4..1e-2:log"` or `"stages.0.batch_size=16,32,64"`;
            `stages.*.KEY` stands for every stage that trains in steps. Empty for the recipe's own space.
        model, weights: network and weights in place of the recipe's, as for `loupe.train`.
        settings: values of other recipe keys as KEY=VALUE, in every trial.
        trials: number of trials. The first has the recipe's own values.
        time_limit: time for search and confirmation, in seconds or as text such as `20m`; it is held to within one
            training. None for no limit.
        confirm: number of other seeds, with which the best settings are compared with the recipe's own; 0: none.
        seed: seed of the split, the trainings and the search.
        device, output, skip_damaged, verify: as for `loupe.train`.
        name: name of the files. Default: tune-DATA-RECIPE, with a numeric suffix if another search has that name.
        quiet: print nothing.

    Returns:
        results, as in the JSON file.

    Raises:
        ConfigError: an unknown key or an invalid range, an unknown recipe, or a taken `name`.
        DataError: the images cannot be used.
        RunStateError: no trial was completed, or the files are of another version.
        InterruptedRunError: stopped and saved; the same call resumes.
        LoupeError: Optuna is not installed.
    """
    read = ReadOptions.of(columns, images, follow_links)
    words = tuple(replace(read, images=Path("IMAGES") if read.images else None).words)
    if not current().alone:
        raise ConfigError("loupe tune runs in one process. Start it without torchrun.")
    with terminal(quiet=quiet):
        files.check_name(name)
        version = check_installed()
        request = TuneRequest(
            None if recipe is None else str(recipe),
            model,
            parents.named(weights, Path(output)),
            tuple(search),
            tuple(settings),
            trials,
            None if time_limit is None else seconds_in(time_limit),
            confirm,
            seed,
            words,
            skip_damaged,
        )
        request.check()
        dataset = open_dataset(data, read, verify=verify)
        tuned = TunedRecipe.of(request, dataset)
        teachers.check(tuned.default, dataset.table.classes)
        keys = tuned.space(request.search)
        options = RunOptions(Path(output), device, skip_damaged, quiet)
        wanted = name or f"tune-{dataset.name}-{tuned.default.name}"
        dataset.compute_hashes()
        identity = files.SearchIdentity.asked(
            dataset, request.words(tuned.argument, [one.text for one in keys]), optuna=version
        )
        folder = files.open_folder(Path(output), wanted, identity, is_named=name is not None)
        with files.locked(folder):
            logger.info(_announced(keys, tuned, request, folder))
            with StopSignal() as stop:
                trainings = SearchTrainings(dataset, options, folder / "trainings", stop)
                found = Search(tuned, keys, trainings, request).run()
            return conclude.conclude(found, tuned, dataset, request, options, folder, version)


def _announced(keys: Sequence[SearchKey], tuned: TunedRecipe, request: TuneRequest, folder: Path) -> str:
    """Plan of a search in words: its keys, its trials and its rungs."""
    lines = [f"Search of {counted(len(keys), 'key')} of recipe {tuned.default.name}, by {tuned.default.monitor}:"]
    lines += [f"  {one.text}" + (f"   (recipe: {one.default})" if one.default is not None else "") for one in keys]
    limit = request.time_limit_seconds
    lines.append(
        f"Up to {counted(request.trials, 'trial')}"
        + (f", {duration(limit)} with the confirmation" if limit else "")
        + f". Figures of each training are kept in {folder}"
    )
    return "\n".join(lines)
