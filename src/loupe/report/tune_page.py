"""Page of a search for settings: verdict, history, importance and values of each key, made from the JSON file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from loupe.errors import counted
from loupe.evaluate.tune_results import Confirmation, Trial, TunedKey, TuneResults
from loupe.files import write_atomic
from loupe.report import figures, texts, tune_charts
from loupe.report.content import Drawing
from loupe.report.template import render

WIDE_PX, NARROW_PX, HALF_PX = 760, 330, 540
PERCENT = ("val_accuracy", "val_macro_f1")
NAMES = {
    "val_accuracy": "validation accuracy",
    "val_macro_f1": "validation macro-F1",
    "val_loss": "validation loss",
    "val_objective": "validation loss with L2",
}
BY_CHANCE = 0.05  # p-value from which on a share may be chance


@dataclass(frozen=True)
class Key:
    """Row of the table of keys."""

    name: str
    values: str
    default: str
    best: str
    share: float | None
    note: str


@dataclass(frozen=True)
class Row:
    """Row of the table of trials."""

    number: int
    state: str
    value: str
    accuracy: str
    epochs: str
    seconds: str
    settings: Sequence[str]
    is_best: bool


def write_page(path: Path, results: TuneResults) -> None:
    """Write the page of a search to `path`."""
    write_atomic(path, render("tune.html", _gather(results)))


def _gather(results: TuneResults) -> dict[str, Any]:
    """Values of the template."""
    confirmation = results.confirmation
    seconds = sum(rung.seconds for trial in results.trials for rung in trial.rungs)
    return {
        "content": results,
        "title": _title(results),
        "metric": NAMES.get(results.monitor, results.monitor),
        "gain": _gain(confirmation),
        "best_value": _value(results, results.best_trial),
        "counts": {
            state: sum(trial.state == state for trial in results.trials) for state in ("complete", "given up", "failed")
        },
        "history": _history(results),
        "slices": [drawing for key in results.keys if (drawing := _slice(results, key))],
        "importance": _importance(results.keys),
        "keys": [_key(one) for one in results.keys],
        "seeds": _seeds(confirmation) if confirmation else None,
        "test_text": _test(results),
        "rows": [_row(results, trial) for trial in results.trials],
        "saved": _saved(results, seconds),
        "columns": [_short_key(one.key) for one in results.keys],
        "environment": {
            name: value for name, value in results.environment.items() if value is not None and name != "command"
        },
    }


def _title(results: TuneResults) -> str:
    words = {
        "better": "Take the best settings",
        "worse": "Keep the recipe's own values",
        "undecided": "Keep the recipe's own values for now",
        "unconfirmed": "Best settings, not confirmed",
        "defaults": "Keep the recipe's own values",
    }
    return words[results.verdict]


def _gain(confirmation: Confirmation | None) -> str:
    """Gain in percentage points with its interval."""
    if confirmation is None or confirmation.gain.value is None:
        return "not known"
    gain = confirmation.gain
    text = f"{100 * confirmation.gain.value:+.1f}"
    if gain.low is None or gain.high is None:
        return f"{text} points"
    return f"{text} points ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"


def _value(results: TuneResults, trial: Trial) -> str:
    return _text(results, trial.rungs[-1].value) if trial.rungs else texts.UNDEFINED


def _text(results: TuneResults, value: float) -> str:
    return texts.percent(value) if results.monitor in PERCENT else f"{value:.4f}"


def _dots(results: TuneResults, places: Sequence[tuple[Trial, float]]) -> list[tune_charts.Dot]:
    """Dots of trials that were measured, each with its place."""
    return [
        tune_charts.Dot(at, trial.rungs[-1].value, trial.state == "complete", trial.number == results.best)
        for trial, at in places
        if trial.rungs and trial.state != "failed"
    ]


def _history(results: TuneResults) -> Drawing:
    sign = -1 if results.lower_is_better else 1
    best_so_far: list[tuple[float, float]] = []
    for trial in results.complete:
        value = trial.rungs[-1].value
        if not best_so_far or sign * value > sign * best_so_far[-1][1]:
            best_so_far.append((trial.number + 1, value))
    dots = _dots(results, [(trial, float(trial.number + 1)) for trial in results.trials])
    failed = [float(trial.number + 1) for trial in results.trials if trial.state == "failed"]
    metric = NAMES.get(results.monitor, results.monitor)
    best = results.best_trial
    words = (
        f"History of {counted(len(results.trials), 'trial')} by {metric}. The recipe's own values, trial 1: "
        f"{_value(results, results.trials[0])}. Best: trial {best.number + 1} with {_value(results, best)}. "
        f"{len(results.complete)} complete, {sum(not dot.is_complete for dot in dots)} given up early, "
        f"{len(failed)} failed."
    )
    wide, narrow = (
        tune_charts.history(
            dots,
            failed,
            best_so_far,
            percent=results.monitor in PERCENT,
            unit=metric,
            label=words,
            width_px=width_px,
        )
        for width_px in (WIDE_PX, NARROW_PX)
    )
    return Drawing(f"{metric.capitalize()} of each trial", wide, narrow)


def _slice(results: TuneResults, key: TunedKey) -> Drawing | None:
    """Values of one key against the metric; None where no trial has it."""
    metric = NAMES.get(results.monitor, results.monitor)
    with_key = [trial for trial in results.trials if key.key in trial.settings]
    if not any(trial.rungs for trial in with_key):
        return None
    words = (
        f"{metric.capitalize()} by {key.key}, tried {key.values}. Recipe: {key.default or 'not one value'}. "
        f"Best trial: {key.best}."
    )
    shown: dict[str, Any] = {"percent": results.monitor in PERCENT, "unit": metric, "label": words}
    if key.choices:
        places = [(trial, float(key.choices.index(str(trial.settings[key.key])))) for trial in with_key]
        same = [place for place, choice in enumerate(key.choices) if choice == key.default]
        drawn = [
            tune_charts.values_of_list(
                _dots(results, places), key.choices, same[0] if same else None, **shown, width_px=width_px
            )
            for width_px in (HALF_PX, NARROW_PX)
        ]
    else:
        assert key.low is not None and key.high is not None
        places = [(trial, float(trial.settings[key.key])) for trial in with_key]
        drawn = [
            tune_charts.values_of_range(
                _dots(results, places),
                (key.low, key.high),
                _number(key.default),
                is_log=key.is_log,
                **shown,
                width_px=width_px,
            )
            for width_px in (HALF_PX, NARROW_PX)
        ]
    return Drawing(key.key, *drawn)


def _number(text: str | None) -> float | None:
    """Number in the recipe; None for anything else."""
    value = yaml.safe_load(text) if text else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _importance(keys: Sequence[TunedKey]) -> Drawing | None:
    shares = {one.key: one for one in sorted(keys, key=lambda one: -(one.share or 0)) if one.share is not None}
    if not shares:
        return None
    values = {name: one.share or 0.0 for name, one in shares.items()}
    shown = [f"{texts.percent(one.share)}{_note(one)}" for one in shares.values()]
    words = "Importance: " + ", ".join(f"{name} {text}" for name, text in zip(values, shown, strict=True)) + "."
    wide = figures.bars(values, shown, label=words, width_px=WIDE_PX)
    short = {texts.short(name.rpartition(".")[2], 20): value for name, value in values.items()}
    if len(short) < len(values):
        short = {texts.short(name, 28): value for name, value in values.items()}
    return Drawing("Importance of each key", wide, figures.bars(short, shown, label=words, width_px=NARROW_PX))


def _note(one: TunedKey) -> str:
    return ", may be chance" if one.p is not None and one.p >= BY_CHANCE else ""


def _key(one: TunedKey) -> Key:
    return Key(
        name=_short_key(one.key),
        values=one.values,
        default=one.default or texts.UNDEFINED,
        best=str(one.best),
        share=one.share,
        note="" if one.p is None else f"p = {one.p:.2f}",
    )


def _short_key(key: str) -> str:
    """Name of a key without its sections, where it stays clear: `lr`, `augment.crop_padding_px`."""
    return key.split(".", 2)[2] if key.startswith("stages.") and key.count(".") > 1 else key


def _seeds(confirmation: Confirmation) -> Drawing:
    both = zip(confirmation.seeds, confirmation.defaults, confirmation.best, strict=True)
    pairs = [(f"seed {seed}", defaults, best) for seed, defaults, best in both]
    words = "Validation accuracy on other seeds. " + " ".join(
        f"{name}: recipe {texts.percent(defaults)}, best settings {texts.percent(best)}."
        for name, defaults, best in pairs
    )
    wide, narrow = (tune_charts.seeds(pairs, label=words, width_px=width_px) for width_px in (WIDE_PX, NARROW_PX))
    return Drawing("Validation accuracy on other seeds", wide, narrow)


def _test(results: TuneResults) -> str:
    test = results.test
    if test is None:
        return "The test images were not evaluated."
    accuracy = test.accuracy
    return (
        f"Test accuracy of {test.run}: {texts.percent(accuracy.value)} "
        f"({texts.between(accuracy.low, accuracy.high, as_percent=True)}), on {counted(test.images, 'image')}, "
        f"evaluated after the choice. Test-set evaluations recorded in this folder: {test.looks}."
    )


def _row(results: TuneResults, trial: Trial) -> Row:
    last = trial.rungs[-1] if trial.rungs else None
    state: str = trial.state
    if trial.same_as is not None:
        state = f"the same as trial {trial.same_as + 1}"
    if trial.state == "failed":
        state = f"failed: {trial.why}"
    if trial.number == 0:
        state = f"the recipe's own values, {state}"
    settings = [str(trial.settings.get(key.key, key.default or texts.UNDEFINED)) for key in results.keys]
    return Row(
        number=trial.number + 1,
        state=state,
        value=_text(results, last.value) if last else texts.UNDEFINED,
        accuracy=texts.percent(last.accuracy) if last else texts.UNDEFINED,
        epochs=str(last.epochs) if last and last.epochs else texts.UNDEFINED,
        seconds=texts.duration(sum(rung.seconds for rung in trial.rungs)),
        settings=settings,
        is_best=trial.number == results.best,
    )


def _saved(results: TuneResults, seconds: float) -> str | None:
    """Time that giving up early has saved, against as many whole trainings; None where nothing was given up."""
    whole = [trial.rungs[-1].seconds for trial in results.complete if trial.rungs[-1].seconds > 0]
    if not whole or all(trial.state == "complete" for trial in results.trials):
        return None
    return (
        f"The trials took {texts.duration(seconds)}. As many whole trainings, at the mean of the complete ones, take "
        f"{texts.duration(len(results.trials) * sum(whole) / len(whole))}."
    )
