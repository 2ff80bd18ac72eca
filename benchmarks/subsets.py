"""Parts of the real data sets, small enough for two cores, and what compares two runs on the same images."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import loupe
from loupe.config.recipe import SplitSpec
from loupe.data.splits.split import Split, assign
from loupe.data.table import ImageTable
from loupe.evaluate.predictions import read_splits

RESAMPLES = 10_000


def cifar_subset(source: Path, folder: Path, *, train: int, test: int) -> Path:
    """A copy of CIFAR-10's Parquet files with that many images of each class, drawn by a fixed seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, each in (("train", train), ("test", test)):
        rows = pq.read_table(next(source.glob(f"{name}-*.parquet")))
        chosen = np.sort(_drawn(rows.column("label").to_numpy(), np.arange(len(rows)), each, seed=0))
        pq.write_table(rows.take(pa.array(chosen)), folder / f"{name}-00000-of-00001.parquet")
    return folder


def few(train: int, val: int) -> Callable[[ImageTable, Sequence[str], SplitSpec, int], Split]:
    """Splits as Loupe does, and keeps at most so many training and validation images of each class, by the seed."""

    def split(table: ImageTable, content: Sequence[str], spec: SplitSpec, seed: int) -> Split:
        whole = assign(table, content, spec, seed)
        return Split(
            np.sort(_drawn(table.labels[whole.train], whole.train, train, seed)),
            np.sort(_drawn(table.labels[whole.val], whole.val, val, seed)),
            whole.test,
        )

    return split


def _drawn(labels: np.ndarray, rows: np.ndarray, each: int, seed: int) -> np.ndarray:
    order = np.random.default_rng(seed).permutation(len(rows))
    chosen = [order[labels[order] == label][:each] for label in np.unique(labels)]
    return rows[np.concatenate(chosen)]


def paired_difference(*pairs: tuple[loupe.Run, loupe.Run]) -> dict[str, float]:
    """Test accuracy of the first run of each pair less that of the second, averaged over pairs, which are seeds.

    With the 95 % interval of a paired bootstrap over the images.
    """
    found = [(_hits(run), _hits(other)) for run, other in pairs]
    images = found[0][0].keys()
    assert all(hits.keys() == images for pair in found for hits in pair), "the same images"
    difference_N = np.mean([[mine[image] - theirs[image] for image in images] for mine, theirs in found], axis=0)
    generator = np.random.default_rng(0)
    draws_R = [generator.choice(difference_N, len(difference_N)).mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(draws_R, (0.025, 0.975))
    return {"value": float(difference_N.mean()), "low": float(low), "high": float(high)}


def _hits(run: loupe.Run) -> dict[str, int]:
    test = read_splits(run.path / "predictions.csv")["test"]
    return dict(zip(test.path, (test.predicted == test.label).astype(int).tolist(), strict=True))


def finished(folder: Path, name: str) -> loupe.Run | None:
    """The run of that name where it has come to its end before; a benchmark that was stopped goes on from there."""
    place = folder / name
    if (place / "results.json").exists():
        return loupe.load(place)
    return loupe.resume(place) if (place / "recipe.yaml").exists() else None


def percent(estimate: dict[str, float]) -> str:
    """`97.5 % (96.4 to 98.3)`."""
    low, high = 100 * estimate["low"], 100 * estimate["high"]
    return f"{100 * estimate['value']:.1f} % ({low:.1f} to {high:.1f})"
