"""`loupe explain`: pages of class activation maps, and of images that filters respond to."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loupe.cli.options import Device, FollowLinks, Json, Output, Quiet, SkipDamaged, print_json
from loupe.errors import ConfigError, DiskError, counted
from loupe.log import printable

MOST_IMAGES = 500

if TYPE_CHECKING:
    from loupe.explain.explanations import Explanation
    from loupe.explain.filters import FilterImages
    from loupe.notebook.explanations import Explanations
    from loupe.runs.run import Run


def explain(
    run: Annotated[str, typer.Argument(help="Run: its folder or its name.")],
    images: Annotated[
        list[str] | None,
        typer.Argument(help="Images, folders or globs. Default: images of the run, misclassified ones first."),
    ] = None,
    filters: Annotated[
        bool, typer.Option("--filters", help="Show images that filters respond to, instead of regions.")
    ] = False,
    layer: Annotated[
        str | None,
        typer.Option(
            help="Layer as listed in report.html, or block of a vision transformer, for example trunk.block3. "
            "Default: the last layer with spatial positions; with --filters, up to three convolutions."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--class", help="Class to explain. Default: the predicted one, and the true one where they differ."
        ),
    ] = None,
    method: Annotated[str | None, typer.Option(help="Method: hires-cam or grad-cam. Default: hires-cam.")] = None,
    split: Annotated[
        str, typer.Option(help="Split of the images, if none are given: val or test. Test-set evaluations are counted.")
    ] = "val",
    count: Annotated[int, typer.Option(min=1, help="Number of images of the run, or of filters of a layer.")] = 12,
    to: Annotated[Path | None, typer.Option(help="HTML file to write. Default: explain.html, or filters.html.")] = None,
    follow_links: FollowLinks = False,
    device: Device = "auto",
    output: Output = Path("runs"),
    skip_damaged: SkipDamaged = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Show which regions of an image support a class. With --filters: images that filters respond to."""
    if filters and (images or target or method):
        raise ConfigError("--filters cannot be combined with images, --class or --method.")
    if split not in {"val", "test"}:
        raise ConfigError(f"--split {split}: give val or test.")
    to = to or Path("filters.html" if filters else "explain.html")
    if not to.absolute().parent.is_dir():  # before the work, not after
        raise ConfigError(f"--to {to}: the folder does not exist. Create it, or choose another.")
    from loupe.data.sources.folders import from_paths
    from loupe.explain.cam import DEFAULT
    from loupe.rundir import open_run
    from loupe.runs.run import Run

    opened = Run(open_run(run, output), device=device, quiet=quiet or as_json)
    if filters:
        result = _filters(opened, layer, count, to, show=not as_json)
    else:
        cam_method = method or DEFAULT
        if images and (several := len(from_paths(images, follow_links=follow_links))) > MOST_IMAGES:
            raise ConfigError(f"{several:,} images are too many for one page. Give at most {MOST_IMAGES}.")
        explanations = opened.explain(
            images or None,
            split=split,
            count=count,
            layer=layer,
            target=target,
            method=cam_method,
            follow_links=follow_links,
            skip_damaged=skip_damaged,
        )
        maps = _maps(opened, explanations, layer, to, show=not as_json)
        result = {"method": cam_method, "temperature": opened.temperature} | maps
    if as_json:
        print_json({"run": str(opened.path), **result})


def _maps(run: "Run", explanations: "Explanations", layer: str | None, to: Path, *, show: bool) -> dict[str, Any]:
    """Write the page of class activation maps, print a line for each image, and return the JSON output."""
    from loupe.explain.feature_maps import choose_layer
    from loupe.report import explain_page as page

    chosen = choose_layer(run.model, layer)
    _write(to, lambda: page.write_maps(to, explanations, explanations.facts, run.directory.name))
    if show:
        for one in explanations:
            verdict = f"{one.label} predicted as {one.predicted}" if one.missed else one.predicted
            print(printable(f"{one.path}  {verdict} {one.probability:.1%}  {'; '.join(_regions(one))}"))
        print(printable(f"Page: {to}"))
    return {
        "page": str(to),
        "layer": chosen.name,
        "map": chosen.shape[1:],
        "images": [_image(one) for one in explanations],
    }


def _regions(one: "Explanation") -> list[str]:
    return [
        f"{name}: strongest {evidence.region}, half of it in {evidence.half:.0%} of the image"
        if evidence
        else f"{name}: no evidence"
        for name, evidence in one.evidence.items()
    ]


def _image(one: "Explanation") -> dict[str, Any]:
    evidence = {
        name: asdict(known) | {"place": known.region} if known else None for name, known in one.evidence.items()
    }
    return {
        "path": one.path,
        "predicted": one.predicted,
        "probability": one.probability,
        "label": one.label,
        "evidence": evidence,
    }


def _filters(run: "Run", layer: str | None, count: int, to: Path, *, show: bool) -> dict[str, Any]:
    """Write the page of filters, print a line for each layer, and return the JSON output."""
    from loupe.report import explain_page as page

    images = run.filters(layer, count=count)
    _write(to, lambda: page.write_filters(to, images, images.ascent, images.shapes, run.directory.name))
    layers = {name: [one for one in images if one.layer == name] for name in dict.fromkeys(one.layer for one in images)}
    if show:
        for name, several in layers.items():
            print(printable(f"{name}: {counted(len(several), 'filter')}; {_medians(several)}"))
        print(printable(f"Page: {to}"))
    return {
        "page": str(to),
        "settings": asdict(images.ascent),
        "layers": {name: [_response(one) for one in several] for name, several in layers.items()},
    }


def _medians(several: "Sequence[FilterImages]") -> str:
    rows = [_response(one)["response"] for one in several]
    return "median response: " + ", ".join(f"{kind} {median(row[kind] for row in rows):.3g}" for kind in rows[0])


def _response(one: "FilterImages") -> dict[str, Any]:
    from loupe.explain.filters import REGULARISATIONS

    reached = dict(zip(REGULARISATIONS, one.activation_R, strict=True))
    return {"filter": one.filter, "response": {"noise": one.noise_activation, **reached}}


def _write(to: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        raise DiskError(f"{to}: cannot be written: {error.strerror}. Choose another file with --to.") from None
