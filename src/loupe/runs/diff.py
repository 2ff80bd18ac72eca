"""Comparison of all figures in the files of two runs. It does not import torch.

Figures are compared exactly, with all digits. Times, speeds, test-set evaluations, names, dates and sentences are not
figures, nor are L2 strengths, which are settings of the recipe. Recorded circumstances that differ (versions, device,
threads, recipe, hashes) are listed separately, because they can be why a figure differs.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from loupe.data.class_names import same_form
from loupe.data.splits import split_file
from loupe.errors import RunStateError
from loupe.evaluate.predictions import Predictions, read_splits
from loupe.evaluate.results import RunResults, results_of
from loupe.provenance import environment_of
from loupe.rundir import RunDirectory
from loupe.runs.diff_results import (
    CurveDifference,
    Differences,
    PredictionDifference,
    RunDifferences,
    SplitDifference,
    TensorDifference,
    ValueDifference,
)

# Keys of results.json below which nothing is a figure: of the run, and wherever they stand.
NOT_FIGURES_OF_RUN = frozenset(
    {
        *("schema", "version", "name", "dataset", "recipe", "network", "seed", "device", "published"),
        *("precision", "frozen_precision", "stages", "stopped", "parent", "made_of", "blend", "distilled"),
    }
)
NOT_FIGURES = frozenset(
    {"test_looks", "seconds", "images_per_second", "l2_strength", "text", "next", "why", "date", "path"}
)
TIMES = ("_seconds", "_per_second")
NOT_CIRCUMSTANCES = frozenset(
    {
        "schema",
        "command",
        "credentials",
        "date",
        "data",
        "open_test",
        "choices",
        "parent",
        "hashes.split",
        "hashes.recipe",
        "recipe.name",
        "recipe.description",
    }
)


def differences(first: RunDirectory, second: RunDirectory) -> RunDifferences:
    """Compare two finished runs.

    Raises:
        LoupeError: a run is not finished, or a file of one is damaged.
    """
    compared: dict[str, int] = {}
    found = Differences(
        results=_results(first, second, compared),
        curves=_curves(first, second, compared),
        split=_split(first, second, compared),
        predictions=_predictions(first, second, compared),
        weights=_weights(first, second, compared),
    )
    return RunDifferences(
        first=str(first.path),
        second=str(second.path),
        device=finished(second).device,
        same=not any(rows for _, rows in found),
        compared=compared,
        differences=found,
        circumstances=_circumstances(first, second),
    )


def finished(run: RunDirectory) -> RunResults:
    """Results of a run; LoupeError if it is not finished."""
    results = results_of(run)
    if results is None:
        raise RunStateError(
            f"{run.path} is not finished, so no run can be compared with it. Continue it first: {run.resume_command}"
        )
    return results


def _results(first: RunDirectory, second: RunDirectory, compared: dict[str, int]) -> tuple[ValueDifference, ...]:
    """Figures of results.json, each under its key."""
    left_out = set() if _both_have_folds(first, second) else {"folds"}
    one, other = (
        {
            key: value
            for key, value in _leaves(finished(run).to_json())
            if _is_figure(key) and key.partition(".")[0] not in left_out
        }
        for run in (first, second)
    )
    compared["figures"] = len(one.keys() | other.keys())
    return _unequal(one, other)


def _curves(
    first: RunDirectory, second: RunDirectory, compared: dict[str, int]
) -> tuple[CurveDifference | ValueDifference, ...]:
    """Columns of metrics.csv, and the number of its rows: epochs and L2 strengths."""
    histories = [_history(run.file("metrics.csv")) for run in (first, second)]
    one, other = histories
    shared = min(len(one), len(other))
    strengths = [
        _number(mine.get("l2_strength") or theirs.get("l2_strength")) for mine, theirs in zip(one, other, strict=False)
    ]
    compared["epochs"] = strengths.count(None)
    if solved := shared - strengths.count(None):
        compared["L2 strengths"] = solved
    rows: list[CurveDifference | ValueDifference] = []
    if len(one) != len(other):
        key = "L2 strengths" if strengths and strengths[-1] is not None else "epochs"
        rows.append(ValueDifference(key=key, first=len(one), second=len(other)))
    columns = {key: None for row in [*one[:1], *other[:1]] for key in row if _is_figure(key)}
    for column in columns:
        pairs = [(one[i].get(column), other[i].get(column)) for i in range(shared)]
        unequal = [i for i, (mine, theirs) in enumerate(pairs) if mine != theirs]
        if unequal:
            mine, theirs = pairs[unequal[0]]
            strength = strengths[unequal[0]]
            rows.append(
                CurveDifference(
                    key=column,
                    epoch=unequal[0] + 1,
                    first=_number(mine),
                    second=_number(theirs),
                    epochs=len(unequal),
                    **({} if strength is None else {"l2_strength": strength}),
                )
            )
    return tuple(rows)


def _split(
    first: RunDirectory, second: RunDirectory, compared: dict[str, int]
) -> tuple[SplitDifference | ValueDifference, ...]:
    """Splits and classes of the images in split.csv, by content: names and paths do not count."""
    missing = _only_one(first, second, "split.csv")
    if missing or not first.file("split.csv").is_file():
        return missing
    one, other = (
        Counter(
            (content, same_form(label), part)
            for label, part, content in split_file.stored(run.file("split.csv")).values()
        )
        for run in (first, second)
    )
    compared["images"] = (one | other).total()
    gone, come = one - other, other - one
    moved = {content for content, *_ in gone} & {content for content, *_ in come}
    alone = [sum(n for (content, *_), n in side.items() if content not in moved) for side in (gone, come)]
    rows: list[SplitDifference | ValueDifference] = []
    if moved:
        elsewhere = sum(n for (content, *_), n in gone.items() if content in moved)
        rows.append(SplitDifference(key="images in another split, or of another class", images=elsewhere))
    if any(alone):
        rows.append(ValueDifference(key="images of one run only", first=alone[0], second=alone[1]))
    return tuple(rows)


def _predictions(
    first: RunDirectory, second: RunDirectory, compared: dict[str, int]
) -> tuple[PredictionDifference | ValueDifference, ...]:
    """Predictions of each split."""
    missing = _only_one(first, second, "predictions.csv")
    if missing or not first.file("predictions.csv").is_file():
        return missing
    one, other = (_predictions_of(run, folds=_both_have_folds(first, second)) for run in (first, second))
    compared["predictions"] = sum(len(one[name]) for name in one.keys() & other.keys())
    rows: list[PredictionDifference | ValueDifference] = []
    for name in {**one, **other}:
        if name not in one or name not in other:
            rows.append(_present({"first": one, "second": other}, name))
        else:
            rows += _unequal_predictions(name, one[name], other[name])
    return tuple(rows)


def _predictions_of(run: RunDirectory, *, folds: bool) -> dict[str, Predictions]:
    """Predictions of each split, and out-of-fold ones as `train (folds)` and so on."""
    of_folds = read_splits(run.fold_predictions) if folds else {}
    named = {f"{name} (folds)": predictions for name, predictions in of_folds.items()}
    return {**read_splits(run.file("predictions.csv")), **named}


def _both_have_folds(first: RunDirectory, second: RunDirectory) -> bool:
    """True if both runs were evaluated by folds; those of earlier versions were not, and are compared without."""
    return all(run.fold_predictions.is_file() for run in (first, second))


def _unequal_predictions(
    name: str, one: Predictions, other: Predictions
) -> Iterator[PredictionDifference | ValueDifference]:
    if one.classes != other.classes:
        yield ValueDifference(key=f"{name}: classes", first=list(one.classes), second=list(other.classes))
        return
    place = {image: row for row, image in enumerate(_numbered(other.content))}
    pairs = [(row, place[image]) for row, image in enumerate(_numbered(one.content)) if image in place]
    mine, theirs = np.array(pairs, np.int64).reshape(-1, 2).T
    alone = len(one) + len(other) - 2 * len(pairs)
    apart_NK = np.abs(one.logits_NK[mine].astype(np.float64) - other.logits_NK[theirs])
    if apart_NK.any() or alone:
        yield PredictionDifference(
            key=name,
            images=len(pairs),
            of_another_class=int((one.predicted[mine] != other.predicted[theirs]).sum()),
            largest_difference=float(apart_NK.max(initial=0.0)),
            images_of_one_run_alone=alone,
        )


def _numbered(content: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Content of each image with a number, from 1, among its copies."""
    seen: Counter[str] = Counter()
    for digest in content:
        seen[digest] += 1
        yield digest, seen[digest]


def _weights(
    first: RunDirectory, second: RunDirectory, compared: dict[str, int]
) -> tuple[TensorDifference | ValueDifference, ...]:
    """Tensors of the model, bit for bit."""
    name = "model/weights.safetensors"
    missing = _only_one(first, second, name)
    if missing or not first.file(name).is_file():
        return missing
    try:
        with safe_open(first.file(name), "np") as one, safe_open(second.file(name), "np") as other:
            return tuple(_unequal_tensors(one, other, compared))
    except (OSError, SafetensorError) as error:
        raise RunStateError(f"the weights of {first.path} or {second.path} cannot be read: {error}") from None


def _unequal_tensors(one: Any, other: Any, compared: dict[str, int]) -> Iterator[TensorDifference | ValueDifference]:
    compared["weights"] = 0
    keys = {"first": set(one.keys()), "second": set(other.keys())}
    for key in sorted(keys["first"] | keys["second"]):
        if key not in keys["first"] or key not in keys["second"]:
            yield _present(keys, key)
            continue
        mine, theirs = one.get_tensor(key), other.get_tensor(key)
        if (mine.shape, mine.dtype) != (theirs.shape, theirs.dtype):
            yield ValueDifference(key=key, first=f"{mine.dtype} {mine.shape}", second=f"{theirs.dtype} {theirs.shape}")
            continue
        compared["weights"] += mine.size
        bits = f"u{mine.itemsize}"
        unequal = np.ascontiguousarray(mine).view(bits) != np.ascontiguousarray(theirs).view(bits)
        if unequal.any():
            largest = float(np.abs(mine.astype(np.float64) - theirs.astype(np.float64)).max())
            finite = largest if np.isfinite(largest) else None
            yield TensorDifference(key=key, values=mine.size, unequal=int(unequal.sum()), largest_difference=finite)


def _circumstances(first: RunDirectory, second: RunDirectory) -> tuple[ValueDifference, ...]:
    """Recipe and environment, as far as both runs recorded them; the recipe's keys first."""
    recipes = [dict(_leaves(run.read_recipe().model_dump(mode="json"), "recipe")) for run in (first, second)]
    made = [dict(_leaves(environment_of(run).to_json())) for run in (first, second)]
    known = made[0].keys() & made[1].keys()
    rows = _unequal(*recipes) + _unequal(*({key: side[key] for key in side if key in known} for side in made))
    return tuple(row for row in rows if NOT_CIRCUMSTANCES.isdisjoint({row.key, row.key.partition(".")[0]}))


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Values in nested mappings and lists, with keys such as `test.accuracy.value` or `layers.0.type`."""
    if isinstance(value, Mapping):
        nested: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list | tuple):
        nested = enumerate(value)
    else:
        yield key, value
        return
    for name, item in nested:
        yield from _leaves(item, f"{key}.{name}" if key else str(name))


def _is_figure(key: str) -> bool:
    parts = key.split(".")
    if parts[0] in NOT_FIGURES_OF_RUN:
        return False
    return NOT_FIGURES.isdisjoint(parts) and not any(part.endswith(TIMES) for part in parts)


def _unequal(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[ValueDifference, ...]:
    """Keys with unequal values, in the order of the first run."""
    sides = {"first": one, "second": other}
    return tuple(
        ValueDifference(key=key, **{side: values[key] for side, values in sides.items() if key in values})
        for key in {**one, **other}
        if key not in one or key not in other or one[key] != other[key]
    )


def _only_one(first: RunDirectory, second: RunDirectory, name: str) -> tuple[ValueDifference, ...]:
    """One row if only one run has the file."""
    sides = {side: [name] if run.file(name).is_file() else [] for side, run in (("first", first), ("second", second))}
    return (_present(sides, name),) if sum(map(len, sides.values())) == 1 else ()


def _present(sides: Mapping[str, Iterable[str]], key: str) -> ValueDifference:
    """Row of a key that is in one run only."""
    present: dict[str, Any] = {side: "present" for side, keys in sides.items() if key in keys}
    return ValueDifference(key=key, **present)


def _history(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunStateError(f"{path}: cannot be read as learning curves: {error}") from None


def _number(text: str | None) -> float | None:
    """A value of metrics.csv, None where it is empty. JSON has no infinities: they are None too."""
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if np.isfinite(value) else None
