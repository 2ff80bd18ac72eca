"""What the commands share: their common options, and how a result is printed for scripts."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

Data = Annotated[
    str,
    typer.Argument(help="A folder of class folders, CSV, Parquet, .npz, CIFAR archive, or a name such as digits."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show only the result, and warnings.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Output = Annotated[Path, typer.Option(help="The folder that holds the runs.")]
SkipDamaged = Annotated[bool, typer.Option("--skip-damaged", help="Leave damaged images out, and count them.")]


def print_json(value: Any) -> None:
    """The result, and nothing else, on standard output."""
    print(json.dumps(value, indent=1, allow_nan=False))
