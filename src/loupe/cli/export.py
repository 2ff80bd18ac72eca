"""`loupe export`: a run as a model for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from loupe import __version__
from loupe.cli.options import Output, Quiet
from loupe.errors import ConfigError, enumerated, unknown_name
from loupe.log import logger, terminal


def export(
    run: Annotated[str, typer.Argument(help="Run: its folder or its name.")],
    to: Annotated[str, typer.Option(help="Target: onnx, openvino, timm, torch or web.")],
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
    precision: Annotated[
        str, typer.Option(help="Precision of the network: fp32; with --to onnx also fp16 or int8.")
    ] = "fp32",
    max_loss: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=100.0,
            help="Largest loss of accuracy with fp16 and int8, in percentage points. Default: 0.5.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="With --to web: probability below which an image stays unclassified."),
    ] = None,
    wanted_precision: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="SHARE",
            help="With --to web: guaranteed share of correct predictions among the classified images, for example "
            "0.99. Chooses the threshold on validation images.",
        ),
    ] = None,
    runtime: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="With --to web: folder of ONNX Runtime Web, such as node_modules/onnxruntime-web/dist. Default: "
            "download it once.",
        ),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="USER/NAME", help="Repository of the Hugging Face hub to upload the export to."),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Let everyone see the repository. Default: private.")
    ] = False,
    output: Output = Path("runs"),
    quiet: Quiet = False,
) -> None:
    """Export a classifier for other programs.

    It is written once it predicts there as it does here, for every validation image. Prints the folder, and with --push
    the address of the commit.
    """
    if public and push is None:
        raise ConfigError("--public is for --push USER/NAME.")
    of_page = {"--threshold": threshold, "--wanted-precision": wanted_precision, "--runtime": runtime}
    given = [name for name, value in of_page.items() if value is not None]
    if given and to != "web":
        raise ConfigError(f"{enumerated(given)}: for --to web. Leave {'it' if len(given) == 1 else 'them'} out.")
    if threshold is not None and wanted_precision is not None:
        raise ConfigError("--threshold and --wanted-precision exclude each other. Give one of them.")
    from loupe.export import hub
    from loupe.export.export import default_folder, export_model
    from loupe.export.job import PRECISIONS, Options
    from loupe.rundir import open_run
    from loupe.runs.run import Run

    opened = Run(open_run(run, output), device="cpu", quiet=quiet)
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    if wanted_precision is not None:
        chosen = opened.threshold_for(wanted_precision)
        threshold = chosen.value
        with terminal(quiet=quiet):
            logger.info(str(chosen))
    if max_loss is not None and precision == "fp32":
        raise ConfigError("--max-loss is for --precision fp16 or int8. Leave it out.")
    losing = {} if max_loss is None else {"max_loss_points": max_loss}
    options = Options(precision=PRECISIONS[precision], runtime=runtime, threshold=threshold, **losing)
    if push is None:
        print(export_model(opened, to, folder=folder, images=images, options=options, quiet=quiet))
        return
    hub.check_name(push)
    place = folder or default_folder(opened, to, options)
    beside = [name for name, value in {"--images": images, "--runtime": runtime}.items() if value is not None]
    if beside and place.exists():
        raise ConfigError(
            f"{place} exists, and may have been made without {enumerated(beside)}. Remove it, or choose another with "
            "--folder."
        )
    if not hub.is_export_of(place, opened, to, options):
        export_model(opened, to, folder=place, images=images, options=options, quiet=quiet)
    print(place)
    with terminal(quiet=quiet):
        message = f"Loupe {__version__}: {opened.path.name} for {to}, {options.precision}"
        print(hub.push(place, push, public=public, message=message))
