"""Results of `loupe tune` in the terminal, on standard output."""

from pathlib import Path

from rich.table import Table

from loupe.cli.cells import plain
from loupe.errors import counted
from loupe.evaluate.tune_results import TuneResults
from loupe.log import console, duration
from loupe.report import texts


def print_tuned(results: TuneResults, folder: Path) -> None:
    """Print the keys with their values, the verdict, and the command that trains with the chosen settings."""
    out = console()
    table = Table(box=None)
    for column in ("key", "recipe", "best trial", "importance"):
        table.add_column(column, no_wrap=True)
    for key in results.keys:
        share = "" if key.share is None or key.p is None else f"{texts.percent(key.share)}{_by_chance(key.p)}"
        table.add_row(plain(key.key), plain(key.default or "–"), plain(str(key.best)), share)
    out.print(table)
    out.print(plain(results.importance), soft_wrap=True)
    given_up = sum(trial.state == "given up" for trial in results.trials)
    failed = sum(trial.state == "failed" for trial in results.trials)
    counts = f"{counted(len(results.trials), 'trial')} in {duration(results.seconds)}, {given_up} given up early"
    counts += f", {failed} failed" if failed else ""
    out.print(f"{counts}. Ended by: {plain(results.ended)}.", soft_wrap=True)
    out.print(f"\n{plain(results.conclusion)}", soft_wrap=True)
    if results.test:
        accuracy = results.test.accuracy
        interval = texts.between(accuracy.low, accuracy.high, as_percent=True)
        out.print(
            f"Test accuracy of {plain(results.test.run)}: {texts.percent(accuracy.value)} ({interval}), on "
            f"{counted(results.test.images, 'image')}. Test-set evaluations recorded in this folder: "
            f"{results.test.looks}.",
            soft_wrap=True,
        )
    else:
        out.print("The test images were not evaluated.")
    out.print(f"Page: {plain(str(folder / results.name))}.html (also .json)", soft_wrap=True)
    out.print(f"Best settings as a recipe: {plain(str(folder / results.recipe_file))}", soft_wrap=True)
    out.print(f"To train with {_chosen(results)}: {plain(results.next_command)}", soft_wrap=True)


def _by_chance(p: float) -> str:
    """Words for a share that chance explains too."""
    return "" if p < 0.05 else " (may be chance)"


def _chosen(results: TuneResults) -> str:
    return "the best settings" if results.chosen == "best" else "the recipe's own values"
