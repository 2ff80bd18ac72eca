"""Run whose weights another training starts from: found by its name, recorded in the new run, and continued so."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from loupe import rundir
from loupe.config.recipe import Preprocessing, Recipe, SplitSpec
from loupe.config.resolved import ResolvedRecipe
from loupe.data.splits import split_file
from loupe.data.splits.split import Split
from loupe.errors import LoupeError, RunStateError, counted
from loupe.evaluate.results import results_file
from loupe.log import command_line, logger
from loupe.models.parent import HeadUse, Parent, find, head_use
from loupe.models.pretrained import weights_origin
from loupe.provenance import ParentRun, environment_of, of_file, recorded_licence
from loupe.recipes.transfer import finetune
from loupe.rundir import RunDirectory

OF_PIXELS = ("size_px", "load_px", "resize", "interpolation", "mean", "std", "channels")


def named(weights: str | Path | None, runs: Path) -> str | None:
    """Weights as given, or the folder of the run of that name in the runs folder."""
    if weights is None or weights in {"timm", "none"} or Path(weights).exists():
        return None if weights is None else str(weights)
    return str(runs / weights) if (runs / weights / "recipe.yaml").is_file() else str(weights)


def record(recipe: ResolvedRecipe, classes: tuple[str, ...], split: Split, content: Sequence[str]) -> ParentRun | None:
    """Record of the trained classifier from whose weights a recipe starts; None without one.

    What is taken from it is logged; and a warning if it was trained on images that are to evaluate the new run.

    Args:
        classes: of the new run, in their order.
        split, content: of the new run: its split, and the hash of each image.
    """
    parent = find(recipe.model.weights)
    if parent is None:
        return None
    use, reason = head_use(parent, recipe.model, recipe.preprocessing, classes)
    if use != "new" and recipe.stages[0].is_solved:
        use, reason = "new", "the recipe solves it"
    _log_taken(parent, recipe.preprocessing, use, reason)
    remedy = remedy_of(RunDirectory(parent.run)) if parent.run else ""
    seen_images = seen(parent.run, str(parent.shown), split, content, remedy=remedy)
    place, origin = parent.run or parent.folder, weights_origin(recipe.model, _recorded_licence(parent.run))
    return ParentRun(
        name=parent.name,
        path=str(place),
        weights=of_file(parent.weights),
        network=parent.network.name,
        head=use,
        licence=None if origin is None else origin.licence,
        seen_validation=seen_images["val"],
        seen_test=seen_images["test"],
    )


def _recorded_licence(run: Path | None) -> str | None:
    if run is not None:
        with suppress(LoupeError):  # a record that cannot be read
            return recorded_licence(RunDirectory(run))
    return None


def _log_taken(parent: Parent, preprocessing: Preprocessing, use: HeadUse, reason: str) -> None:
    head = "trunk and head are taken" if use != "new" else f"its trunk is taken; the head is new, because {reason}"
    order = ", its outputs in the order of these classes" if use == "reordered" else ""
    logger.info(f"weights of {parent.shown} ({parent.network.name}): {head}{order}.")
    mine, theirs = preprocessing.model_dump(), parent.preprocessing.model_dump()
    other = [f"{key} {mine[key]} in place of {theirs[key]}" for key in OF_PIXELS if mine[key] != theirs[key]]
    logger.info(f"images are prepared as for {parent.shown}{', but ' if other else ''}{', '.join(other)}.")
    if parent.preprocessing.range is not None and preprocessing.range is None:
        levels = str(list(parent.preprocessing.range)).replace(" ", "")
        logger.info(
            f"the range of its pixel values is not taken. If these files have the same: --set input.range={levels}"
        )


def seen(
    run: Path | None, shown: str, split: Split, content: Sequence[str], *, remedy: str = ""
) -> dict[str, int | None]:
    """Validation and test images among the training images of a run, or of those that it started or learned from.

    A warning is logged if there are some.

    Args:
        run: None where it is not known.
        shown: its name in the warning.
        split, content: of the new run.
        remedy: sentences for the warning.

    Returns:
        Number by split. Where not all training images are known, those that were found, or None if none were.
    """
    trained, is_whole = trained_on(run)
    found = {name: sum(content[row] in trained for row in split.rows(name).tolist()) for name in ("val", "test")}
    for name, images in found.items():
        if images:
            kind = {"val": "validation", "test": "test"}[name]
            logger.warning(
                f"{images:,} of {counted(len(split.rows(name)), f'{kind} image')} are training images of "
                f"{shown}: {kind} figures are too high. {remedy}".rstrip()
            )
    return {name: images if is_whole or images else None for name, images in found.items()}


def remedy_of(run: RunDirectory) -> str:
    """Sentences on how to evaluate on images that a run has not seen."""
    words = _of_split(run.read_recipe())
    keep = f"To split these images as it did: {command_line(words)}. " if words else ""
    return f"{keep}Or evaluate on images that it has not seen."


def trained_on(run: Path | None, visited: frozenset[Path] = frozenset()) -> tuple[set[str], bool]:
    """Hashes of the training images of a run, and of those that it started from, was made of or learned from.

    Args:
        visited: runs that led to this one. Another run may have taken the place of one that was deleted, so that two
            lead to each other.

    Returns:
        The hashes that are known; and whether these are all.
    """
    runs, is_whole = _line(run)
    trained = set[str]()
    if not visited.isdisjoint(one.path.absolute() for one in runs):
        return trained, False
    visited = visited.union(one.path.absolute() for one in runs)
    for one in runs:
        learned = {"train", "val"} if one.read_recipe().refit else {"train"}
        trained |= {digest for _, name, digest in split_file.stored(one.file("split.csv")).values() if name in learned}
        environment = environment_of(one)
        teachers = () if environment.teacher is None else (environment.teacher,)
        for member in (*environment.made_of, *teachers):
            of_member, is_known = trained_on(Path(member.path), visited)
            trained, is_whole = trained | of_member, is_whole and is_known
    return trained, is_whole


def _line(run: Path | None) -> tuple[list[RunDirectory], bool]:
    """Run, the run that it started from, and so on; and whether all of them are known.

    The line breaks at a run that is gone, at a record that cannot be read, and at a model folder outside its run.
    """
    line = list[RunDirectory]()
    while run is not None and (run / "split.csv").is_file():
        directory = RunDirectory(run)
        if directory in line:  # another run has taken the place of one that was deleted
            break
        line.append(directory)
        try:
            before = environment_of(directory).parent
        except LoupeError:
            break
        if before is None:
            return line, True
        run = Path(before.path)
    return line, False


def continuation(run: RunDirectory, epochs: int | None = None) -> str:
    """Command of a new run that trains on from the weights of a finished one, on its images and with its recipe.

    Args:
        epochs: epochs of the new run; None for those of the recipe.
    """
    environment, recipe = environment_of(run), run.read_recipe()
    words = ["loupe", "train", environment.data_word, *environment.read_words]
    words += ["--skip-damaged"] if environment.skip_damaged else []
    if all(stage.is_solved for stage in recipe.stages):  # at its optimum: what remains to be trained is the trunk
        words += ["--recipe", "finetune", *_of_split(recipe)]
        recipe = finetune()
    else:
        words += ["--recipe", str(run.file("recipe.yaml"))]
    words += ["--weights", str(run.path)]
    if epochs is not None and len(recipe.stages) == 1:
        words += ["--epochs", str(epochs)]
    elif epochs is not None:
        last = max(number for number, stage in enumerate(recipe.stages) if not stage.is_solved)
        words += ["--set", f"stages.{last}.epochs={epochs}"]
    return command_line(words)


def _of_split(recipe: Recipe) -> list[str]:
    """Options with which any recipe has the split of another, on the same images."""
    own = recipe.split.model_copy(update={"seed": recipe.split_seed}).model_dump(mode="json")
    usual = SplitSpec().model_dump(mode="json") | {"seed": 0}
    return [word for key, value in own.items() if value != usual[key] for word in ("--set", f"split.{key}={value}")]


def refuse_if_finished(run: str | Path, runs: Path, epochs: int) -> None:
    """Refuse more epochs of a finished run, with the command that trains on from it.

    Raises:
        RunStateError: the run is finished.
    """
    try:
        directory = rundir.open_run(run, runs)
    except RunStateError:
        return
    if results_file(directory).is_file():
        raise RunStateError(
            f"{directory.path} is finished, and a finished run does not change. Train on from its weights, in a new "
            f"run: {continuation(directory, epochs)}"
        )
