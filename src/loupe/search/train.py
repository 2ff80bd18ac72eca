"""Function `loupe.train`: one training, or with a time limit a search for the best one."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loupe import ranks
from loupe.config.recipe import Recipe
from loupe.data.sources.read_options import ColumnNames, ReadOptions
from loupe.data.splits import split as splits
from loupe.errors import ConfigError, counted
from loupe.evaluate.search_results import Restrictions
from loupe.log import terminal
from loupe.runs import train as runner
from loupe.runs.run import Run
from loupe.runs.train import Splitter
from loupe.search.opening import SearchOptions
from loupe.search.search import SearchOutcome, search


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
    time_limit: float | None = None,
    predict_within_seconds: float | None = None,
    size_bytes: int | None = None,
    allow_blend: bool = False,
) -> Run:
    """Train a classifier on labelled images, evaluate it, and write everything into a new run directory.

    With `time_limit`, train many and leave the best one; the run is then in `output`/`name`, with `search.json`.

    Args:
        data, columns, images, follow_links: images, as for `loupe.runs.train.train`.
        recipe, epochs, batch_size, lr, precision, refit, teacher, settings, split, open_test, track: as there. With a
            time limit the search chooses them; of the settings it takes `split`, `class_weights` and `monitor`.
        model, weights: as there. With a time limit: the only pretrained network to use; weights `none` for none.
        seed, device, output, name, skip_damaged, verify, quiet: as there.
        time_limit: seconds from the call on, in which everything ends, evaluation and report included; None for one
            training.
        predict_within_seconds: longest time of a prediction of one image on this machine, of what a search delivers.
        size_bytes: largest size of the weights that a search delivers.
        allow_blend: deliver a blend of candidates if it is better by more than chance; if False, one network.

    Raises:
        LoupeError: as for `loupe.runs.train.train`.
        ConfigError: also options that do not go with a time limit, or a limit in which nothing can be trained.
    """
    if time_limit is None:
        if predict_within_seconds is not None or size_bytes is not None or allow_blend:
            raise ConfigError(
                "predict_within_seconds, size_bytes and allow_blend are of a search: give time_limit too."
            )
        return runner.train(
            data,
            columns=columns,
            images=images,
            follow_links=follow_links,
            recipe=recipe,
            model=model,
            weights=weights,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            seed=seed,
            precision=precision,
            refit=refit,
            teacher=teacher,
            settings=settings,
            device=device,
            output=output,
            name=name,
            split=split,
            skip_damaged=skip_damaged,
            open_test=open_test,
            verify=verify,
            track=track,
            quiet=quiet,
        )
    began = time.perf_counter()
    own: dict[str, Any] = {
        "recipe": recipe,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "precision": precision,
        "refit": refit,
        "teacher": teacher,
    }
    own |= {"split": None if split is splits.assign else split, "open_test": None if open_test else False}
    refuse_with_limit([name for name, value in {**own, "track": track}.items() if value is not None])
    return searched(
        SearchOptions(
            data=data,
            read=ReadOptions.of(columns, images, follow_links),
            limit_seconds=time_limit,
            began=began,
            restrictions=Restrictions(
                allow_blend=allow_blend, predict_within_seconds=predict_within_seconds, size_bytes=size_bytes
            ),
            model=model,
            weights=None if weights is None else str(weights),
            seed=seed or 0,
            settings=settings,
            device=device,
            output=Path(output),
            name=name,
            skip_damaged=skip_damaged,
            verify=verify,
            quiet=quiet,
            command=f"loupe.train(..., time_limit={time_limit:g})",
        )
    ).run


def searched(options: SearchOptions) -> SearchOutcome:
    """Search within a time limit.

    Raises:
        ConfigError: options that contradict each other, or a limit in which nothing can be trained.
        LoupeError: images or weights that cannot be used.
    """
    if not options.limit_seconds > 0:
        raise ConfigError(f"a time limit is above 0 seconds; got {options.limit_seconds:g}.")
    if ranks.processes() > 1:
        raise ConfigError(
            f"a search within a time limit runs in one process, and {counted(ranks.processes(), 'process')} were "
            "started. Leave out --processes."
        )
    with terminal(quiet=options.quiet):
        return search(options)


def refuse_with_limit(given: Sequence[str]) -> None:
    """Refuse options that a search chooses itself.

    Raises:
        ConfigError: there are some.
    """
    if given:
        raise ConfigError(
            f"{given[0]} does not go with a time limit: a search chooses it. Leave it out, or train one recipe without "
            "a time limit. A search takes model, weights, seed, and the settings split.* and class_weights."
        )
