"""`loupe labels`: labels that look wrong, in the terminal and as files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loupe.cli.clusters import solver_of
from loupe.cli.options import (
    Cluster,
    Columns,
    Data,
    Device,
    FollowLinks,
    Images,
    InputSize,
    Json,
    Quiet,
    SkipDamaged,
    input_size,
    print_json,
)
from loupe.errors import counted

if TYPE_CHECKING:
    from loupe.evaluate.label_results import LabelResults

FIRST_SHOWN = 20


def labels(
    data: Data,
    columns: Columns = None,
    images: Images = None,
    follow_links: FollowLinks = False,
    model: Annotated[str | None, typer.Option(help="Pretrained network. Default: that of the recipe features.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Pretrained weights: timm (download), none, a file, a run, hf-hub:NAME or local-dir:DIR."),
    ] = None,
    size: InputSize = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Split to examine; can be repeated. Default: train and val.")
    ] = None,
    folds: Annotated[int, typer.Option(min=3, help="Cross-validation folds.")] = 5,
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed for the folds, and for the splits if the data has none.")
    ] = 0,
    to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="New folder to write. Default: DATA-labels.")
    ] = None,
    device: Device = "auto",
    cluster: Cluster = None,
    skip_damaged: SkipDamaged = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Find labels that look wrong. Show the images, and measure the effect of leaving them out."""
    from loupe.labels import export
    from loupe.labels.find import LabelOptions, check_labels

    if to is not None:
        export.check_new(to)  # before the work, not after
    splits = split or ("train", "val")
    with solver_of(cluster, quiet=quiet or as_json) as solver:
        report = check_labels(
            data,
            LabelOptions(model, weights, input_size(size), splits, number_of_folds=folds, seed=seed),
            columns=columns,
            images=images,
            follow_links=follow_links,
            device=device,
            skip_damaged=skip_damaged,
            quiet=quiet or as_json,
            solver=solver,
        )
    results = export.write(report, to or export.free_name(report.table.name))
    if as_json:
        print_json(results.to_json())
    else:
        _show(results)


def _show(results: "LabelResults") -> None:
    from rich.markup import escape
    from rich.table import Table

    from loupe.log import console, printable
    from loupe.report.labels_page import in_words
    from loupe.report.texts import percent

    out = console()
    table = Table("image", "split", "label", "probability", "suggested", "probability", box=None)
    table.columns[0].overflow = "fold"
    for item in results.suspects[:FIRST_SHOWN]:
        names = (item.path, item.split or "", item.label, item.suggested)
        path, split, label, suggested = (escape(printable(name)) for name in names)
        table.add_row(path, split, label, percent(item.score), suggested, percent(item.score_of_suggested))
    if results.suspects:
        out.print(table)
    if len(results.suspects) > FIRST_SHOWN:
        out.print(f"and {len(results.suspects) - FIRST_SHOWN:,} more")
    splits = ", ".join(
        f"{split} {results.suspected.get(split, 0):,} of {number:,}" for split, number in results.examined.items()
    )
    look = "looks" if len(results.suspects) == 1 else "look"
    of_all = f"{len(results.suspects):,} of {counted(results.images, 'label')}"
    out.print(escape(printable(f"{of_all} {look} wrong: {splits}.")), soft_wrap=True)
    if results.doubtful:
        doubtful = counted(results.doubtful, "more label is", "more labels are")
        out.print(f"{doubtful} in doubt: another class is more likely, but not clearly.", soft_wrap=True)
    for sentence in in_words(results.effect) if results.suspects and not results.unlearned else []:
        out.print(sentence, soft_wrap=True)
    for line in _next(results):
        out.print(escape(printable(line)), soft_wrap=True)


def _next(results: "LabelResults") -> list[str]:
    """Conclusion and next steps, as lines."""
    from loupe.log import command_line
    from loupe.report.labels_page import clean, may_leave_out

    files = results.files
    if not results.suspects:
        return [clean(results), f"Page: {files['page']}"]
    lines = [*([results.unlearned] if results.unlearned else []), f"Page: {files['page']}"]
    if "kept" not in files:
        return [
            *lines,
            "These images are not files, so no list of them can be trained on. Correct the labels in the source of the "
            f"data: {files['labels']} lists the rows, suspects first.",
        ]
    # The images are not in the folder of the new lists.
    command = {name: command_line(["loupe", "train", files[name], "--follow-links"]) for name in ("labels", "kept")}
    lines.append(
        f"To correct labels: edit the column label in {files['labels']} (suspects first), then: {command['labels']}"
    )
    if may_leave_out(results):
        stay = " and ".join(f"{number:,} of {split}" for split, number in results.suspected.items() if split != "train")
        staying = f" (kept for evaluation: {stay})" if stay else ""
        lines.append(f"To leave out all suspects of the training images{staying}: {command['kept']}")
    return lines
