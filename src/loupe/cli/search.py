"""`loupe train --time-limit`: the best classifier that is found in the time that is given."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from loupe.cli.options import print_json
from loupe.errors import ConfigError
from loupe.log import command_line

TimeLimit = Annotated[
    str | None,
    typer.Option(
        metavar="DURATION",
        help="Try many trainings and leave the best one within this time, for example 90s, 10m or 1h. Default: one "
        "training.",
    ),
]
PredictWithin = Annotated[
    str | None,
    typer.Option(
        metavar="DURATION",
        help="With --time-limit: longest prediction of one image on this machine, for example 5ms. Default: any.",
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="BYTES", help="With --time-limit: largest size of the weights, for example 20MB. Default: any."
    ),
]
AllowBlend = Annotated[
    bool,
    typer.Option(
        "--allow-blend",
        help="With --time-limit: deliver several networks together if they are better by more than chance. Default: "
        "one network.",
    ),
]
Value = TypeVar("Value")


def train_within(
    data: str | None,
    time_limit: str,
    *,
    predict_within: str | None,
    size: str | None,
    allow_blend: bool,
    read: tuple[list[str] | None, Path | None, bool],
    model: str | None,
    weights: str | None,
    seed: int | None,
    settings: Sequence[str] | None,
    device: str | None,
    output: Path,
    name: str | None,
    skip_damaged: bool,
    verify: bool,
    quiet: bool,
    as_json: bool,
    refused: Mapping[str, Any],
) -> None:
    """Search within a time limit, and print the result of the best run; options as for `loupe train`.

    Args:
        read: columns, folder of images, and whether links are followed.
        refused: options that do not go with a time limit, with their values.

    Raises:
        ConfigError: one of them was given, or a value cannot be read.
    """
    from loupe.search import clock

    began = clock.process_start()
    if data is None:
        raise ConfigError("DATA is missing. Give the images to train on.")
    limit = _value(clock.seconds_of, time_limit, "--time-limit")
    within = None if predict_within is None else _value(clock.seconds_of, predict_within, "--predict-within")
    size_bytes = None if size is None else _value(clock.bytes_of, size, "--size")
    given = [option for option, value in refused.items() if value is not None]
    from loupe.data.sources.read_options import ReadOptions
    from loupe.evaluate.search_results import Restrictions
    from loupe.search.opening import SearchOptions
    from loupe.search.train import refuse_with_limit, searched

    refuse_with_limit(given)
    found = searched(
        SearchOptions(
            data=data,
            read=ReadOptions.of(*read),
            limit_seconds=limit,
            began=began,
            restrictions=Restrictions(allow_blend=allow_blend, predict_within_seconds=within, size_bytes=size_bytes),
            model=model,
            weights=weights,
            seed=seed or 0,
            settings=tuple(settings or ()),
            device=device or "auto",
            output=output,
            name=name,
            skip_damaged=skip_damaged,
            verify=verify,
            quiet=quiet or as_json,
            command=command_line(["loupe", *sys.argv[1:]]),
        )
    )
    if as_json:
        print_json({**found.run.results.to_json(), "search": found.results.to_json()})
    else:
        from loupe.cli import tables

        tables.print_results(found.run.results, found.run.path)
    if found.signal_number is not None:
        raise typer.Exit(128 + found.signal_number)


def refuse_without_limit(predict_within: str | None, size: str | None, *, allow_blend: bool) -> None:
    """Refuse options that only a search has.

    Raises:
        ConfigError: one of them was given.
    """
    for option, value in (
        ("--predict-within", predict_within),
        ("--size", size),
        ("--allow-blend", allow_blend or None),
    ):
        if value is not None:
            raise ConfigError(f"{option} restricts a search: give --time-limit too.")


def _value(read: Callable[[str], Value], text: str, option: str) -> Value:
    try:
        return read(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}.") from None
