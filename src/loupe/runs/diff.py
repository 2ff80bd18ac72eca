"""Whether one run repeats another: every figure in the files of two runs, compared. It never loads torch.

Figures are compared exactly, as they are written, which is with all their digits. Times, speeds, looks at the test
split, names, dates and sentences are no figures. What a run was made with (versions, device, threads, recipe, hashes)
is listed beside, because it may be why a figure differs.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from loupe.data.splits import split as splits
from loupe.errors import RunStateError
from loupe.evaluate.predictions import Predictions, read_splits
from loupe.evaluate.results import RunResults, results_of
from loupe.provenance import environment_of
from loupe.rundir import RunDirectory

SCHEMA = 1
Row = dict[str, Any]

# Keys of results.json below which nothing is a figure: of the run, and wherever they stand.
NOT_FIGURES_OF_RUN = frozenset(
    {
        *("schema", "version", "name", "dataset", "recipe", "network", "seed", "device", "published"),
        *("precision", "frozen_precision"),
    }
)
NOT_FIGURES = frozenset({"test_looks", "seconds", "images_per_second", "text", "next", "why", "date", "path"})
TIMES = ("_seconds", "_per_second")
NOT_CIRCUMSTANCES = frozenset(
    {"schema", "command", "date", "data", "open_test", "hashes.split", "recipe.name", "recipe.description"}
)


def differences(first: RunDirectory, second: RunDirectory) -> dict[str, Any]:
    """What differs between two finished runs, as the content of against.json.

    Returns:
        `device`: of the second. `same`: whether no figure differs. `compared`: how many of each kind there were to
        compare. `differences`: for `results`, `curves`, `split`, `predictions` and `weights`, a row for each thing
        that differs, with its `key`; a value that only one run has leaves `first` or `second` out. `circumstances`:
        rows of what both runs recorded of their making, and that differs.

    Raises:
        LoupeError: a run is not finished, or a file of one is damaged.
    """
    compared: dict[str, int] = {}
    found = {
        "results": _results(first, second, compared),
        "curves": _curves(first, second, compared),
        "split": _split(first, second, compared),
        "predictions": _predictions(first, second, compared),
        "weights": _weights(first, second, compared),
    }
    return {
        "schema": SCHEMA,
        "first": str(first.path),
        "second": str(second.path),
        "device": finished(second).device,
        "same": not any(found.values()),
        "compared": compared,
        "differences": found,
        "circumstances": _circumstances(first, second),
    }


def finished(run: RunDirectory) -> RunResults:
    """The results of a run; LoupeError where it has none yet."""
    results = results_of(run)
    if results is None:
        raise RunStateError(
            f"{run.path} is not finished, so that nothing can be compared with it. Go on with it first: "
            f"{run.resume_command}"
        )
    return results


def _results(first: RunDirectory, second: RunDirectory, compared: dict[str, int]) -> list[Row]:
    """The figures of results.json, each under its key."""
    one, other = (
        {key: value for key, value in _leaves(finished(run).to_json()) if _is_figure(key)} for run in (first, second)
    )
    compared["figures"] = len(one.keys() | other.keys())
    return _unequal(one, other)


def _curves(first: RunDirectory, second: RunDirectory, compared: dict[str, int]) -> list[Row]:
    """The columns of metrics.csv: of one that differs, the first such epoch, both values there, and how many differ."""
    histories = [_history(run.file("metrics.csv")) for run in (first, second)]
    one, other = histories
    epochs = min(len(one), len(other))
    compared["epochs"] = epochs
    rows: list[Row] = []
    if len(one) != len(other):
        rows.append({"key": "epochs", "first": len(one), "second": len(other)})
    columns = {key: None for row in [*one[:1], *other[:1]] for key in row if _is_figure(key)}
    for column in columns:
        pairs = [(one[i].get(column), other[i].get(column)) for i in range(epochs)]
        unequal = [i for i, (mine, theirs) in enumerate(pairs) if mine != theirs]
        if unequal:
            mine, theirs = pairs[unequal[0]]
            values = {"first": _number(mine), "second": _number(theirs)}
            rows.append({"key": column, "epoch": unequal[0] + 1, **values, "epochs": len(unequal)})
    return rows


def _split(first: RunDirectory, second: RunDirectory, compared: dict[str, int]) -> list[Row]:
    """Which images split.csv puts elsewhere, by their content: names and places do not count."""
    missing = _only_one(first, second, "split.csv")
    if missing or not first.file("split.csv").is_file():
        return missing
    one, other = (
        Counter((content, label, part) for label, part, content in splits.stored(run.file("split.csv")).values())
        for run in (first, second)
    )
    compared["images"] = (one | other).total()
    gone, come = one - other, other - one
    moved = {content for content, *_ in gone} & {content for content, *_ in come}
    alone = [sum(n for (content, *_), n in side.items() if content not in moved) for side in (gone, come)]
    rows: list[Row] = []
    if moved:
        elsewhere = sum(n for (content, *_), n in gone.items() if content in moved)
        rows.append({"key": "images in another part, or of another class", "images": elsewhere})
    if any(alone):
        rows.append({"key": "images that the other has not", "first": alone[0], "second": alone[1]})
    return rows


def _predictions(first: RunDirectory, second: RunDirectory, compared: dict[str, int]) -> list[Row]:
    """For each split: how many images get another class, and the largest difference of a logit."""
    missing = _only_one(first, second, "predictions.csv")
    if missing or not first.file("predictions.csv").is_file():
        return missing
    one, other = (read_splits(run.file("predictions.csv")) for run in (first, second))
    compared["predictions"] = sum(len(one[name]) for name in one.keys() & other.keys())
    rows: list[Row] = []
    for name in {**one, **other}:
        if name not in one or name not in other:
            rows.append({"key": name, **_present({"first": one, "second": other}, name)})
        else:
            rows += _unequal_predictions(name, one[name], other[name])
    return rows


def _unequal_predictions(name: str, one: Predictions, other: Predictions) -> list[Row]:
    if one.classes != other.classes:
        return [{"key": f"{name}: classes", "first": list(one.classes), "second": list(other.classes)}]
    place = {image: row for row, image in enumerate(_numbered(other.content))}
    pairs = [(row, place[image]) for row, image in enumerate(_numbered(one.content)) if image in place]
    mine, theirs = np.array(pairs, np.int64).reshape(-1, 2).T
    alone = len(one) + len(other) - 2 * len(pairs)
    apart_NK = np.abs(one.logits_NK[mine].astype(np.float64) - other.logits_NK[theirs])
    if not apart_NK.any() and not alone:
        return []
    return [
        {
            "key": name,
            "images": len(pairs),
            "of_another_class": int((one.predicted[mine] != other.predicted[theirs]).sum()),
            "largest_difference": float(apart_NK.max(initial=0.0)),
            "images_of_one_run_alone": alone,
        }
    ]


def _numbered(content: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Each image by its content; of copies, the first, the second and so on."""
    seen: Counter[str] = Counter()
    for digest in content:
        seen[digest] += 1
        yield digest, seen[digest]


def _weights(first: RunDirectory, second: RunDirectory, compared: dict[str, int]) -> list[Row]:
    """The tensors of the model that are not equal bit for bit."""
    name = "model/weights.safetensors"
    missing = _only_one(first, second, name)
    if missing or not first.file(name).is_file():
        return missing
    try:
        with safe_open(first.file(name), "np") as one, safe_open(second.file(name), "np") as other:
            return list(_unequal_tensors(one, other, compared))
    except (OSError, SafetensorError) as error:
        raise RunStateError(f"the weights of {first.path} or {second.path} cannot be read: {error}") from None


def _unequal_tensors(one: Any, other: Any, compared: dict[str, int]) -> Iterator[Row]:
    compared["weights"] = 0
    keys = {"first": set(one.keys()), "second": set(other.keys())}
    for key in sorted(keys["first"] | keys["second"]):
        if key not in keys["first"] or key not in keys["second"]:
            yield {"key": key, **_present(keys, key)}
            continue
        mine, theirs = one.get_tensor(key), other.get_tensor(key)
        if (mine.shape, mine.dtype) != (theirs.shape, theirs.dtype):
            yield {"key": key, "first": f"{mine.dtype} {mine.shape}", "second": f"{theirs.dtype} {theirs.shape}"}
            continue
        compared["weights"] += mine.size
        bits = f"u{mine.itemsize}"
        unequal = np.ascontiguousarray(mine).view(bits) != np.ascontiguousarray(theirs).view(bits)
        if unequal.any():
            largest = float(np.abs(mine.astype(np.float64) - theirs.astype(np.float64)).max())
            finite = largest if np.isfinite(largest) else None
            yield {"key": key, "values": mine.size, "unequal": int(unequal.sum()), "largest_difference": finite}


def _circumstances(first: RunDirectory, second: RunDirectory) -> list[Row]:
    """What both runs recorded of what they were made with and of, and that differs; the recipe's keys first."""
    recipes = [dict(_leaves(run.read_recipe().model_dump(mode="json"), "recipe")) for run in (first, second)]
    made = [dict(_leaves(environment_of(run).to_json())) for run in (first, second)]
    known = made[0].keys() & made[1].keys()
    rows = _unequal(*recipes) + _unequal(*({key: side[key] for key in side if key in known} for side in made))
    return [row for row in rows if NOT_CIRCUMSTANCES.isdisjoint({row["key"], row["key"].partition(".")[0]})]


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every single value in nested mappings and lists, with its key, as `test.accuracy.value` or `layers.0.type`."""
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


def _unequal(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Row]:
    """A row for each key whose values differ, in the order of the first."""
    sides = {"first": one, "second": other}
    return [
        {"key": key, **{side: values[key] for side, values in sides.items() if key in values}}
        for key in {**one, **other}
        if key not in one or key not in other or one[key] != other[key]
    ]


def _only_one(first: RunDirectory, second: RunDirectory, name: str) -> list[Row]:
    """A row where only one run has a file."""
    have = {side for side, run in (("first", first), ("second", second)) if run.file(name).is_file()}
    return [{"key": name, **dict.fromkeys(have, "present")}] if len(have) == 1 else []


def _present(sides: Mapping[str, Iterable[str]], key: str) -> dict[str, str]:
    return {side: "present" for side, keys in sides.items() if key in keys}


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
