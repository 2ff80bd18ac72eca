"""`loupe export`: a run as a model for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from loupe.cli.options import Output, Quiet


def export(
    run: Annotated[str, typer.Argument(help="Run: its folder or its name.")],
    to: Annotated[str, typer.Option(help="Target: onnx, openvino or torch.")],
    folder: Annotated[
        Path | None, typer.Option(help="New folder for the export. Default: exports/TARGET in that of the run.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Images on which the exported model is compared with the run. Default: its validation images.",
        ),
    ] = None,
    output: Output = Path("runs"),
    quiet: Quiet = False,
) -> None:
    """Export a classifier for other programs.

    It is written once it predicts there as it does here, for every validation image. Prints the folder.
    """
    from loupe.export.export import export_model
    from loupe.rundir import open_run
    from loupe.runs.run import Run

    opened = Run(open_run(run, output), device="cpu", quiet=quiet)
    print(export_model(opened, to, folder=folder, images=images, quiet=quiet))
