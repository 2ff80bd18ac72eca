"""Conclusion of a search: importance of the keys, confirmation on other seeds, test images, and the files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from loupe import __version__, provenance
from loupe.data.dataset import Dataset
from loupe.devices import choose_device, gpu_name
from loupe.errors import RunStateError, counted
from loupe.evaluate.history import LOWER_IS_BETTER
from loupe.evaluate.tune_results import Confirmation, TestFigures, Trial, TunedKey, TuneResults, Verdict
from loupe.log import command_line
from loupe.runs.options import RunOptions
from loupe.tuning import confirm, files
from loupe.tuning.recipes import TunedRecipe
from loupe.tuning.request import TuneRequest
from loupe.tuning.search import Found
from loupe.tuning.space import SearchKey
from loupe.tuning.study import LEAST_TRIALS, KeyImportance, importances, score


@dataclass(frozen=True)
class Confirmed:
    """Outcome of a confirmation; `recommended` are the settings to train with."""

    verdict: Verdict
    conclusion: str
    recommended: str
    figures: Confirmation | None = None
    test: TestFigures | None = None


def conclude(
    found: Found,
    tuned: TunedRecipe,
    dataset: Dataset,
    request: TuneRequest,
    options: RunOptions,
    folder: Path,
    optuna: str,
) -> TuneResults:
    """Confirm the best settings, evaluate the test images for the chosen ones, and write the files.

    Args:
        folder: folder of the search, which names its files.
        optuna: version of Optuna.

    Raises:
        RunStateError: no trial was completed.
        InterruptedRunError: stopped and saved.
    """
    if not found.scores:
        raise RunStateError("no trial was completed. Give more --trials or a longer --time-limit.")
    best, recipe = found.best, tuned.best(found.best.settings)
    confirmed = _confirmed(found, tuned, dataset, request, options, folder.name)
    shares, of_what = _importance(found, tuned.default.monitor, request.seed)
    results = TuneResults(
        version=__version__,
        optuna=optuna,
        name=folder.name,
        dataset=dataset.name,
        recipe=tuned.default.name,
        seed=request.seed,
        monitor=tuned.default.monitor,
        lower_is_better=tuned.default.monitor in LOWER_IS_BETTER,
        command=request.command(tuned.argument, [one.text for one in found.keys]),
        environment=_environment(options.device),
        images={"train": found.images["train"], "val": found.images["val"], "test": found.images["test"]},
        time_limit_seconds=request.time_limit_seconds,
        ended=found.ended,
        keys=tuple(_tuned_key(one, best, shares.get(one.key)) for one in found.keys),
        trials=tuple(found.trials),
        best=best.number,
        importance=of_what,
        verdict=confirmed.verdict,
        conclusion=confirmed.conclusion,
        chosen="best" if confirmed.recommended == "best" else "defaults",
        confirmation=confirmed.figures,
        test=confirmed.test,
        recipe_file=files.recipe_file(folder).name,
        next_command=_next(confirmed, tuned, dataset, request, files.recipe_file(folder)),
        seconds=round(found.seconds, 1),
    )
    files.write(folder, results, recipe)
    return results


def _confirmed(
    found: Found, tuned: TunedRecipe, dataset: Dataset, request: TuneRequest, options: RunOptions, stem: str
) -> Confirmed:
    """Train both settings on other seeds, judge them in pairs, and evaluate the test images for the chosen ones."""
    best = found.best
    if best.number == 0 or best.same_as == 0:
        others = counted(len(found.trials) - 1, "other trial")
        text = f"No setting was better on validation images than the recipe's own, in {others}."
        return Confirmed("defaults", text, "defaults")
    if not request.confirm:
        text = (
            "The gain over the recipe's own values is not known: the score of the best trial is the highest of many, "
            "partly by luck. Confirm it on other seeds with --confirm 3."
        )
        return Confirmed("unconfirmed", text, "best")

    def go_on(done: int) -> bool:
        return done == 0 or found.clock.has(found.confirmation_seconds)

    seeds = range(request.seed + 1, request.seed + 1 + request.confirm)
    recipes = tuned.default, tuned.with_settings(best.settings)
    names = f"{stem}-defaults", f"{stem}-trial{best.number + 1}"
    pairs = confirm.confirm(dataset, recipes, names, seeds, options, go_on)
    figures, difference = confirm.measured(pairs)
    verdict, text = confirm.judge(figures, difference)
    if len(pairs) < request.confirm:
        text += f" The time limit ended the confirmation after {len(pairs)} of {counted(request.confirm, 'seed')}."
    recommended = "best" if verdict == "better" else "defaults"
    chosen_runs, other_runs = [one.best for one in pairs], [one.defaults for one in pairs]
    if recommended == "defaults":
        chosen_runs, other_runs = other_runs, chosen_runs
    test = confirm.evaluate_test(confirm.with_weights(chosen_runs[0], dataset, options), dataset)
    confirm.drop_weights(other_runs)
    return Confirmed(verdict, text, recommended, figures, test)


def _importance(found: Found, monitor: str, seed: int) -> tuple[dict[str, KeyImportance], str]:
    """Importance of each key, and what it is of: the longest rung with enough trials; or why it cannot be told."""
    keys = {one.key for one in found.keys}
    if len(keys) < 2:
        return {}, "With one key there are no shares."
    most = 0
    for rung in reversed(range(found.rungs)):
        trials = [one for one in found.trials if len(one.rungs) > rung and one.settings.keys() == keys]
        trials = [one for one in trials if one.same_as is None]
        most = max(most, len(trials))
        if len(trials) < LEAST_TRIALS:
            continue
        scores = [_score(one, rung, monitor) for one in trials]
        shares = importances(found.keys, [one.settings for one in trials], scores, seed)
        if shares is None:
            continue
        epochs = trials[0].rungs[rung].epochs
        after = f" after {counted(epochs, 'epoch')}" if epochs else ""
        return shares, f"Shares of the variance of {monitor}{after}, over {counted(len(trials), 'trial')}."
    return {}, f"The importance of the keys cannot be told from {counted(most, 'trial')}; {LEAST_TRIALS} or more may."


def _score(trial: Trial, rung: int, monitor: str) -> float:
    one = trial.rungs[rung]
    losses = [loss for loss in one.losses if loss is not None]
    row: Mapping[str, float | None] = {monitor: one.value, "val_loss": losses[-1] if losses else None}
    return score(row, monitor, monitor in LOWER_IS_BETTER)


def _tuned_key(one: SearchKey, best: Trial, importance: KeyImportance | None) -> TunedKey:
    value = best.settings.get(one.key, one.default if one.default is not None else "")
    return TunedKey(
        key=one.key,
        values=one.text.partition("=")[2],
        low=one.low,
        high=one.high,
        is_log=one.is_log,
        choices=one.choices,
        default=one.default,
        best=value,
        share=None if importance is None else min(1.0, max(0.0, importance.share)),
        p=None if importance is None else importance.p,
    )


def _next(confirmed: Confirmed, tuned: TunedRecipe, dataset: Dataset, request: TuneRequest, recipe_file: Path) -> str:
    """Command that trains with the chosen settings."""
    words = ["loupe", "train", dataset.source or "DATA", *dataset.options.words]
    if confirmed.recommended == "best":
        return command_line([*words, "--recipe", str(recipe_file)])
    words += ["--recipe", tuned.argument, *(["--model", request.model] if request.model else [])]
    words += ["--weights", request.weights] if request.weights else []
    return command_line([*words, *(part for one in request.settings for part in ("--set", one))])


def _environment(device: str) -> dict[str, object]:
    chosen = choose_device(device)
    return provenance.environment(str(chosen), gpu_name(chosen), torch.get_num_threads()).to_json()
