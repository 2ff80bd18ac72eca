"""Options that commands share, and printing a result as JSON."""

import json
from collections.abc import Iterable, Mapping
from itertools import chain, repeat
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from loupe.config.size import SizePx

MOST_INDENTED = 100_000  # values of which the JSON is indented

Data = Annotated[
    str,
    typer.Argument(
        help="Folder of class folders, CSV, TSV, JSONL, Parquet, .npz, CIFAR archive, or the name of a data set."
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ROLE=COLUMN,...",
        help="Columns of a list, for example path=image_id,label=diagnosis,group=patient_id. Roles: path, label, "
        "split, group, id. Default: by their names.",
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Folder of the images that a list names. Default: the folder of the list."),
]
FollowLinks = Annotated[
    bool,
    typer.Option(
        "--follow-links",
        help="Also read files outside the folder of the data, to which links, `..` and absolute paths lead.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only the result, warnings and errors.")]
Device = Annotated[str, typer.Option(help="Device: auto, cpu, cuda, cuda:N or mps.")]
Output = Annotated[Path, typer.Option(help="Folder of the runs.")]
SkipDamaged = Annotated[bool, typer.Option("--skip-damaged", help="Leave out damaged images, and count them.")]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="auto|local|ADDRESS",
        help="Run on a Ray cluster: the one that is found, one that is started on this machine, or HOST:PORT. Default: "
        "in this process.",
    ),
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Read and hash every image again, without hashes remembered from earlier runs.")
]
Tta = Annotated[
    str | None,
    typer.Option(
        "--tta",
        metavar="NAME",
        help="Test-time augmentation, the mean over views of each image: flip (2 views), or flip-shift (6 views: also "
        "moved by a pixel). Default: none.",
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(
        "--processes",
        min=1,
        metavar="N",
        help="Processes on this machine that share the work, as with torchrun: one for each GPU, or for groups of "
        "cores. Default: 1.",
    ),
]
InputSize = Annotated[
    str | None,
    typer.Option(
        metavar="PIXELS|HEIGHTxWIDTH",
        help="Input size: the side of a square, or for example 224x320. Default: that of the network.",
    ),
]


def input_size(text: str | None) -> "SizePx | None":
    """The value of `--size`."""
    from loupe.config.size import size_in

    try:
        return None if text is None else size_in(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error} (got {text!r})", param_hint="'--size'") from None


def print_json(value: Any) -> None:
    """Print the result, and nothing else, on standard output: indented, or if it is very large an entry a line."""
    if not isinstance(value, dict) or _is_small(value):
        print(_dumps(value))
        return
    for mark, (key, entry) in zip(chain("{", repeat(",")), value.items(), strict=False):
        print(f"{mark}\n {json.dumps(key)}: {json.dumps(entry, allow_nan=False)}", end="")
    print("\n}")


def print_long_json(head: Mapping[str, Any], name: str, items: Iterable[Any], tail: Mapping[str, Any]) -> None:
    """Print what `print_json` prints of a small `{**head, name: [*items], **tail}`, one item at a time."""
    before, _, after = _dumps({**head, name: [], **tail}).partition(f'"{name}": []')
    print(f'{before}"{name}": [', end="")
    separator, end = "\n", "]"
    for item in items:
        print(separator + indent(_dumps(item), "  "), end="")
        separator, end = ",\n", "\n ]"
    print(end + after)


def _dumps(value: Any) -> str:
    return json.dumps(value, indent=1, allow_nan=False)


def _is_small(value: Any) -> bool:
    """True for at most `MOST_INDENTED` values, which Python indents fast enough."""
    waiting, count = [value], 0
    while waiting and count <= MOST_INDENTED:
        held = waiting.pop()
        held = held.values() if isinstance(held, dict) else held
        count += len(held)
        waiting += [each for each in held if isinstance(each, dict | list | tuple)]
    return count <= MOST_INDENTED
