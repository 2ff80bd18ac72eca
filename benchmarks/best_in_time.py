"""The best classifier in a given time: Loupe beside AutoGluon, plain fine-tuning with timm, and its own `features`.

    python benchmarks/best_in_time.py $LOUPE_DATA --work best --minutes 2 5 10 --seeds 0 1 2 --autogluon ENV/bin/python

Each contender gets a folder of class folders, a limit and the same pretrained weights, in a process of its own, one
after the other on the whole machine, without anything cached. Test images lie in another folder, which no contender
gets before its training is over; then it predicts them once, and this program judges. `features` takes the time that
it takes. The limit counts from the start of the process. Cells that are in --work are not computed again.

AutoGluon needs an environment of its own: pip install autogluon.multimodal==1.6.3 "setuptools<81".
"""

import argparse
import csv
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import f1_score

from best_in_time_page import Cell, write_page
from loupe.config.recipe import SplitSpec
from loupe.data.dataset import open_dataset
from loupe.data.splits.split import assign
from loupe.evaluate.paired import difference_of_hits
from setting import commit, machine

HERE = Path(__file__).resolve().parent
SETS = ("digits", "letters", "hand signs", "magnetic tiles", "cats and dogs", "CIFAR-10")
CONTENDERS = ("loupe", "features", "timm", "autogluon")
HELD_OUT = 0.2  # of a set without test images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the data sets and of `weights`")
    parser.add_argument("--work", type=Path, required=True, help="folder of images, runs and predictions")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--minutes", nargs="+", type=float, default=(2.0, 5.0, 10.0))
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--backbone", default="tf_efficientnet_lite2", help="network of timm and AutoGluon")
    parser.add_argument("--autogluon", type=Path, help="Python of AutoGluon's environment")
    parser.add_argument("--presets", default="medium_quality", help="presets of AutoGluon")
    parser.add_argument("--most-images", type=int, help="training images of a set at most, for a test of this program")
    parser.add_argument("--finished", action="store_true", help="read the cells that are in --work, and run none")
    parser.add_argument("--write", type=Path, help="folder for best_in_time.md, .json and .png")
    given = parser.parse_args()
    contest = Contest(given)
    cells = [cell for name in given.sets for cell in contest.cells(name)]
    rows = judged(cells)
    if given.write:
        write_page(given.write, cells, rows, {"machine": machine(os.cpu_count() or 1), "commit": commit()})
    print(json.dumps({"cells": [cell.to_json() for cell in cells], "differences": rows}))


@dataclass
class Contest:
    """Prepares the images, runs what is missing, and judges the predictions."""

    given: argparse.Namespace

    def cells(self, name: str) -> list[Cell]:
        given = self.given
        folder = prepared(name, given.data, given.work / "images" / name.replace(" ", "_"), given.most_images)
        cells = []
        for contender in given.contenders:
            if contender == "autogluon" and given.autogluon is None:
                continue
            for minutes in given.minutes if contender != "features" else (None,):
                found = [self._cell(name, folder, contender, minutes, seed) for seed in given.seeds]
                cells += [cell for cell in found if cell is not None]
        return cells

    def _cell(self, name: str, folder: Path, contender: str, minutes: float | None, seed: int) -> Cell | None:
        """One training and its predictions: run now, or read; None for one that is not to be run."""
        limit = "free" if minutes is None else f"{minutes:g}min"
        work = self.given.work / "cells" / name.replace(" ", "_") / f"{contender}-{limit}-seed{seed}"
        file = work / "cell.json"
        if not file.is_file():
            if self.given.finished:
                return None
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            print(f"{name}, {contender}, {limit}, seed {seed}", file=sys.stderr, flush=True)
            began = time.perf_counter()
            failure = TRAINERS[contender](self.given, folder, work, None if minutes is None else 60 * minutes, seed)
            seconds = time.perf_counter() - began
            if failure is None:
                failure = PREDICTORS[contender](self.given, folder, work)
            file.write_text(json.dumps({"seconds": seconds, "failure": failure}))
        found = json.loads(file.read_text())
        truth, said = labels(folder / "test"), predictions(work / "predictions.csv")
        predicted = [said.get(path, "") for path in truth]  # an image without a prediction is a miss
        hits = np.array([mine == label for mine, label in zip(predicted, truth.values(), strict=True)])
        macro_f1 = f1_score([*truth.values()], predicted, labels=sorted({*truth.values()}), average="macro")
        return Cell(
            name, contender, minutes, seed, found["seconds"], hits, float(macro_f1), found["failure"], receipt(work)
        )


def prepared(name: str, data: Path, folder: Path, most: int | None) -> Path:
    """Folder with `train` and `test`, each of class folders; train has all images that are not for the judge."""
    if (folder / "done").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    WRITERS[name](data, folder)
    if most is not None:
        for label in (folder / "train").iterdir():
            for extra in sorted(label.iterdir())[most:]:
                extra.unlink()
    (folder / "done").touch()
    return folder


def _digits(_data: Path, folder: Path) -> None:
    bunch = load_digits()
    test_N = np.random.default_rng(0).permutation(len(bunch.target)) < HELD_OUT * len(bunch.target)
    for number, (pixels, label, test) in enumerate(zip(bunch.images, bunch.target, test_N, strict=True)):
        place = folder / ("test" if test else "train") / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255 / 16).round().astype(np.uint8)).save(place / f"{number}.png")


def _cifar(data: Path, folder: Path) -> None:
    for split in ("train", "test"):
        table = pq.read_table(next((data / "cifar10").glob(f"{split}-*.parquet")))
        names = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
        for number, row in enumerate(table.to_pylist()):
            place = folder / split / names[row["label"]]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number}.jpg").write_bytes(row["img"]["bytes"])


def _given(source: str, train: Sequence[str]) -> Callable[[Path, Path], None]:
    """Writer of a set with test images, and with several folders to train on."""

    def write(data: Path, folder: Path) -> None:
        for split in (*train, "test"):
            for file in sorted((data / source / split).glob("*/*")):
                place = folder / ("test" if split == "test" else "train") / file.parent.name
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, place / file.name)

    return write


def _held_out(source: str, **split: Any) -> Callable[[Path, Path], None]:
    """Writer of a set without test images: a stratified part, drawn once for all seeds."""

    def write(data: Path, folder: Path) -> None:
        dataset = open_dataset(data / source)
        spec = SplitSpec(validation=0, test=HELD_OUT, **split)
        drawn = assign(dataset.table, dataset.hashes, spec, 0)
        for name in ("train", "test"):
            for row in drawn.rows(name).tolist():
                path = data / source / dataset.table.paths[row]
                place = folder / name / path.parent.name
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place / path.name)

    return write


WRITERS: dict[str, Callable[[Path, Path], None]] = {
    "digits": _digits,
    "letters": _given("letters", ("train",)),
    "hand signs": _held_out("sign_digits"),
    "magnetic tiles": _held_out("magnetic_tiles", group="near"),
    "cats and dogs": _given("cats_vs_dogs", ("train", "val")),
    "CIFAR-10": _cifar,
}


def labels(folder: Path) -> dict[str, str]:
    """Class of each image, by its path under the folder."""
    return {file.relative_to(folder).as_posix(): file.parent.name for file in sorted(folder.glob("*/*"))}


def predictions(file: Path) -> dict[str, str]:
    """Predicted class of each image, by its path under the folder of test images; empty where there is no file."""
    if not file.is_file():
        return {}
    with file.open(newline="", encoding="utf-8") as rows:
        return {row["path"]: row["predicted"] for row in csv.DictReader(rows)}


def _called(words: Sequence[object], work: Path, **environment: str) -> str | None:
    """Run a command with its output in a log; return the last line of the log if it failed."""
    with (work / "log.txt").open("a", encoding="utf-8") as log:
        done = subprocess.run(
            [str(word) for word in words],
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
            check=False,
        )
    if done.returncode == 0:
        return None
    return (work / "log.txt").read_text(encoding="utf-8").strip().splitlines()[-1][:200] or "no output"


def _loupe(given: argparse.Namespace, work: Path, *words: object) -> str | None:
    own = {"LOUPE_CACHE": str(work / "cache"), "LOUPE_WEIGHTS": str(given.data / "weights")}
    return _called([sys.executable, "-m", "loupe", *words], work, **own)


def train_loupe(given: argparse.Namespace, folder: Path, work: Path, seconds: float | None, seed: int) -> str | None:
    limit = ("--recipe", "features") if seconds is None else ("--time-limit", f"{seconds:g}s")
    split = ("--set", "split.test=0", "--seed", seed)
    return _loupe(given, work, "train", folder / "train", *limit, *split, "--output", work / "runs", "--name", "run")


def predict_loupe(given: argparse.Namespace, folder: Path, work: Path) -> str | None:
    table = work / "loupe.csv"
    failure = _loupe(given, work, "predict", work / "runs" / "run", folder / "test", "--to", table)
    shutil.rmtree(work / "cache", ignore_errors=True)
    if failure is None:
        with table.open(newline="", encoding="utf-8") as rows:
            said = {"/".join(Path(row["path"]).parts[-2:]): row["label"] for row in csv.DictReader(rows)}
        _write(work, said)
    return failure


def _write(work: Path, said: dict[str, str]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([("path", "predicted"), *said.items()])
    (work / "predictions.csv").write_text(buffer.getvalue(), encoding="utf-8")


def train_peer(script: str) -> Callable[..., str | None]:
    """Trainer of a peer, whose program predicts too, when its limit is over and its training has ended."""

    def train(given: argparse.Namespace, folder: Path, work: Path, seconds: float | None, seed: int) -> str | None:
        python = given.autogluon if script == "autogluon_multimodal" else sys.executable
        options = ("--seconds", seconds, "--seed", seed, "--network", given.backbone, "--work", work)
        weights = next((given.data / "weights").glob(f"{given.backbone}.*"))
        presets = ("--presets", given.presets) if script == "autogluon_multimodal" else ()
        return _called(
            [python, HERE / "peers" / f"{script}.py", folder, "--weights", weights, *options, *presets], work
        )

    return train


def predict_peer(script: str) -> Callable[..., str | None]:
    def predict(given: argparse.Namespace, folder: Path, work: Path) -> str | None:
        python = given.autogluon if script == "autogluon_multimodal" else sys.executable
        options = ("--network", given.backbone, "--work", work, "--predict")
        weights = next((given.data / "weights").glob(f"{given.backbone}.*"))
        return _called([python, HERE / "peers" / f"{script}.py", folder, "--weights", weights, *options], work)

    return predict


TRAINERS: dict[str, Callable[..., str | None]] = {
    "loupe": train_loupe,
    "features": train_loupe,
    "timm": train_peer("timm_finetune"),
    "autogluon": train_peer("autogluon_multimodal"),
}
PREDICTORS: dict[str, Callable[..., str | None]] = {
    "loupe": predict_loupe,
    "features": predict_loupe,
    "timm": predict_peer("timm_finetune"),
    "autogluon": predict_peer("autogluon_multimodal"),
}


def receipt(work: Path) -> str | None:
    """Network or recipe that a run of Loupe delivered."""
    file = work / "runs" / "run" / "results.json"
    if not file.is_file():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    return f"{found['recipe']}, {found.get('network') or ''}".strip(", ")


def judged(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Accuracy of Loupe less that of each other contender in the same time, with interval and p-value, over images."""
    rows = []
    for name, minutes in sorted({(cell.set, cell.minutes) for cell in cells if cell.contender == "loupe"}):
        same = [cell for cell in cells if cell.set == name and cell.minutes in {minutes, None}]
        hits = {
            contender: np.stack([cell.hits for cell in same if cell.contender == contender])
            for contender in dict.fromkeys(cell.contender for cell in same)
        }
        for other in hits.keys() - {"loupe"}:
            found = difference_of_hits(other, "loupe", hits)
            seconds = statistics.median(cell.seconds for cell in same if cell.contender == other)
            rows.append(
                {"set": name, "minutes": minutes, "other": other, "other_seconds": seconds}
                | {key: getattr(found, key) for key in ("value", "low", "high", "p")}
            )
    return rows


if __name__ == "__main__":
    main()
