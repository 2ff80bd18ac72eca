"""Which epoch's weights should be kept? Rules for small validation sets, judged on images that no rule has seen.

    python benchmarks/kept_epoch.py $LOUPE_DATA --work kept_epoch --write results

Six real sets, in parts of 400 to 1,040 training images: small networks from random weights on the small images, the
last block of a pretrained network on the photographs, at 128 px. After every epoch the network and the average of its
weights predict held-out images. Of these, validation images are drawn many times; each rule chooses an epoch by them,
and the other held-out images judge it. So one training gives the figures of every rule and of every size of validation
set. The trainings that were finished before are read from `--work`.
"""

import argparse
import csv
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest, ttest_rel

from loupe.cache import cache_folder
from loupe.config.optimizer import Constant, Cosine, OneCycle, Schedule
from loupe.config.resolved import ResolvedRecipe
from loupe.data.dataset import Dataset, open_dataset
from loupe.data.pixels.prepare import load_images
from loupe.data.splits.split import Split
from loupe.devices import StopSignal, choose_device
from loupe.evaluate import inference
from loupe.models.classifier import Classifier
from loupe.recipes.resolve import resolve
from loupe.runs.setup import set_up
from loupe.training.checkpoint import Checkpoints
from loupe.training.frozen import trunk_key
from loupe.training.loop import Trainer
from loupe.training.stage_data import StageData, StageDataBuilder
from setting import commit, machine

WEIGHTS = "tf_efficientnet_lite0.in1k.safetensors"
# Of each set: its folder or name, the recipe, settings, and the number of training images.
SETS: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "digits": ("digits", "digits", {}, 400),
    "letters": ("letters", "small-images", {"stages.0.augment.horizontal_flip": False}, 1040),
    "CIFAR-10": ("cifar10", "small-images", {}, 1000),
    "hand signs": ("sign_digits", "last-block", {"stages.1.augment.horizontal_flip": False}, 600),
    "cats and dogs": ("cats_vs_dogs", "last-block", {}, 600),
    "magnetic tiles": ("magnetic_tiles", "last-block", {}, 600),
}
SCHEDULES: dict[str, Schedule] = {"one-cycle": OneCycle(), "cosine": Cosine(), "constant": Constant()}
SHORT_EPOCHS = 3
VARIANTS = ("one-cycle", "one-cycle, 3 epochs", "cosine", "constant")
HELD_OUT, DRAWS = 600, 40
RULES = ("best accuracy", "lowest loss", "last", "average, last", "beyond chance", "corrected", "loss beyond chance")
P = 0.05
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the data sets and the weights")
    parser.add_argument("--work", type=Path, required=True, help="folder of the predictions of each training")
    parser.add_argument("--write", type=Path, help="folder of kept_epoch.csv and kept_epoch.md")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images", type=int, help="training images, in place of those of the set")
    parser.add_argument("--epochs", type=int, help="epochs, in place of the recipe's")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    print(commit(), machine(torch.get_num_threads()), flush=True)
    rows: list[Row] = []
    for seed in range(given.seeds):  # so that an early end has all sets
        for name in given.sets:
            for variant in given.variants:
                path = given.work / f"{name} {variant} {seed}.npz".replace(" ", "_")
                if not path.exists():
                    train(given.data, name, variant, seed, path, given.images, given.epochs)
                with np.load(path) as kept:
                    rows += judged(dict(kept), {"data": name, "variant": variant, "seed": seed})
                print(f"{name}, {variant}, seed {seed}: last {rows[-1]['last accuracy']:.4f}", flush=True)
    if given.write:
        write_rows(given.write / "kept_epoch.csv", rows)
    print(table(rows))


def train(data: Path, name: str, variant: str, seed: int, path: Path, images: int | None, epochs: int | None) -> None:
    """Train once, and store the log probabilities of the held-out images after each epoch."""
    source, recipe_name, settings, usual = SETS[name]
    opened = open_dataset(source if source == "digits" else data / source, announce=False)
    labelled = np.flatnonzero(opened.table.labels >= 0)
    order = np.random.default_rng(seed).permutation(labelled)
    train_images = min(images or usual, len(order) * 2 // 3)
    chosen = np.concatenate([*drawn(opened.table.labels, order, train_images)])[: train_images + HELD_OUT]
    dataset = Dataset(None, opened.table.select(chosen))
    split = Split(*np.split(np.arange(len(chosen)), [train_images]), np.empty(0, np.int64))
    recipe = chosen_recipe(dataset, data, recipe_name, settings, variant, seed, train_images, epochs)
    loaded = load_images(dataset, recipe.preprocessing, cache=None)
    setup = set_up(recipe, loaded, split, choose_device("cpu"))
    log_p: dict[str, list[np.ndarray]] = {"raw": [], "average": []}

    def validate(network: Classifier, stage_data: StageData) -> Row:
        for key, one in (("raw", setup.model), ("average", network)):
            loader, first = stage_data.validation, stage_data.validation_first
            logits_HK = inference.logits(one, loader, split.val, setup.compute, first)
            log_p[key].append(torch.from_numpy(logits_HK).log_softmax(1).numpy())
        return inference.scores(logits_HK, loaded.table.labels[split.val])

    with tempfile.TemporaryDirectory() as folder:
        builder = StageDataBuilder(
            model=setup.model,
            network=trunk_key(setup.recipe.model),
            loader=setup.loader,
            content=loaded.content,
            train_N=split.train,
            test_N=split.test,
            seed=seed,
            folder=cache_folder() / "frozen",
            compute=setup.compute,
            frozen_compute=setup.frozen_compute,
            stop=StopSignal(),
            engines=setup.engines,
        )
        Trainer(
            setup.model,
            stages=setup.recipe.stages,
            prepare=builder.of,
            train_N=split.train,
            validate=validate,
            checkpoints=Checkpoints(Path(folder)),
            on_epoch=lambda history: None,
            compute=setup.compute,
            class_weights_K=None,
            monitor="val_loss",
            keep_best=False,
            stop=StopSignal(),
        ).fit()
    last = setup.recipe.stages[-1].epochs
    stored = {key: np.stack(values[-last:]).astype(np.float32) for key, values in log_p.items()}
    np.savez(path, label=loaded.table.labels[split.val], train=train_images, **stored)


def drawn(label_N: np.ndarray, order: np.ndarray, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Training rows, stratified by class as far as that goes, and the others in random order."""
    place_N = np.empty(len(order))
    for label in np.unique(label_N[order]):
        of_class = np.flatnonzero(label_N[order] == label)
        place_N[of_class] = (np.arange(len(of_class)) + 0.5) / len(of_class)
    training = np.sort(np.argsort(place_N, kind="stable")[:images])
    return order[training], np.delete(order, training)


def chosen_recipe(
    dataset: Dataset,
    data: Path,
    name: str,
    settings: dict[str, Any],
    variant: str,
    seed: int,
    images: int,
    epochs: int | None,
) -> ResolvedRecipe:
    """The recipe of a set with the schedule of a variant, and an average over about two epochs of steps."""
    pretrained = name == "last-block"
    sizes = {"input.size_px": 128, "input.load_px": 147} if pretrained else {}
    flags = {"epochs": None, "batch_size": None, "lr": None, "seed": seed, "precision": None}
    weights = str(data / "weights" / WEIGHTS) if pretrained else None
    extra = {**sizes, **settings}
    recipe = resolve(name, dataset, model=None, weights=weights, flags=flags, extra=extra)
    stage = recipe.stages[-1]
    steps = -(-images // stage.batch_size)
    changes: dict[str, Any] = {"ema_decay": 1 - 1 / (2 * steps + 1), "schedule": SCHEDULES[variant.partition(",")[0]]}
    if variant == "constant":  # the highest rate of a cycle is too high to stay at
        changes["lr"] = stage.lr / 3
    changes["epochs"] = SHORT_EPOCHS if variant.endswith("3 epochs") else epochs or stage.epochs
    return recipe.model_copy(update={"stages": (*recipe.stages[:-1], stage.model_copy(update=changes))})


def judged(kept: dict[str, np.ndarray], head: Row) -> Iterable[Row]:
    """Mean test accuracy, log loss and kept epoch of every rule, for each number of validation images."""
    label_H = kept["label"]
    at_label = (slice(None), np.arange(len(label_H)), label_H)
    loss_EH, average_EH = -kept["raw"][at_label].astype(float), -kept["average"][at_label].astype(float)
    hit_EH, average_hit_EH = (kept[key].argmax(2) == label_H for key in ("raw", "average"))
    default = int(kept["train"]) // 8  # a tenth of all images, of which the training images are eight
    for images in sorted({20, 60, default}):
        found: dict[str, list[tuple[float, float, int]]] = {rule: [] for rule in RULES}
        for draw in range(DRAWS):
            order = np.random.default_rng([head["seed"], images, draw]).permutation(len(label_H))
            val, test = order[:images], order[images:]
            for rule in RULES:
                epoch = chosen_epoch(rule, hit_EH[:, val], loss_EH[:, val])
                hit, loss = (average_hit_EH, average_EH) if rule == "average, last" else (hit_EH, loss_EH)
                found[rule].append((float(hit[epoch, test].mean()), float(loss[epoch, test].mean()), epoch + 1))
        row = {**head, "epochs": len(hit_EH), "val": images, "of": "default" if images == default else str(images)}
        for rule in RULES:
            accuracy, loss, epoch = np.mean(found[rule], axis=0)
            last = np.mean([one[2] == len(hit_EH) for one in found[rule]])
            names = (f"{rule} accuracy", f"{rule} log loss", f"{rule} epoch", f"{rule} is last")
            row |= dict(zip(names, np.round([accuracy, loss, epoch, last], 5).tolist(), strict=True))
        yield row


def chosen_epoch(rule: str, hit_EV: np.ndarray, loss_EV: np.ndarray) -> int:
    """Epoch, from 0, that a rule keeps by its hits and losses on the validation images."""
    epochs, last = len(hit_EV), len(hit_EV) - 1
    hits_E, mean_E = hit_EV.sum(1), loss_EV.mean(1)
    best = max(range(epochs), key=lambda epoch: (hits_E[epoch], -mean_E[epoch], -epoch))
    if rule == "best accuracy":
        return best
    if rule == "lowest loss":
        return int(mean_E.argmin())
    if rule in {"beyond chance", "corrected"}:
        limit = P / (epochs - 1) if rule == "corrected" and epochs > 1 else P
        return best if better_by(hit_EV[best], hit_EV[last]) < limit else last
    if rule == "loss beyond chance":
        lowest = int(mean_E.argmin())
        if lowest != last and ttest_rel(loss_EV[lowest], loss_EV[last], alternative="less").pvalue < P / (epochs - 1):
            return lowest
    return last


def better_by(hit_V: np.ndarray, other_V: np.ndarray) -> float:
    """One-sided p-value of McNemar's exact test: the first is no better than the other."""
    more, fewer = int((hit_V & ~other_V).sum()), int((other_V & ~hit_V).sum())
    return float(binomtest(more, more + fewer, alternative="greater").pvalue) if more + fewer else 1.0


def write_rows(path: Path, rows: list[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def table(rows: list[Row]) -> str:
    """Accuracy in points, and log loss, of each rule less those of the last epoch: means over sets and seeds."""
    lines = ["| schedule | validation images | " + " | ".join(rule for rule in RULES if rule != "last") + " |"]
    lines.append("|---" * (len(RULES) + 1) + "|")
    for variant in dict.fromkeys(row["variant"] for row in rows):
        for of in ("20", "60", "default"):
            chosen = [row for row in rows if row["variant"] == variant and row["of"] == of]
            cells = [difference(chosen, rule) for rule in RULES if rule != "last"] if chosen else []
            lines.append(f"| {variant} | {of} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def difference(rows: list[Row], rule: str) -> str:
    """`-1.2 ± 0.3; +0.04`: points of accuracy with the standard error over sets and seeds; log loss."""
    points_R = np.array([100 * (row[f"{rule} accuracy"] - row["last accuracy"]) for row in rows])
    loss = float(np.mean([row[f"{rule} log loss"] - row["last log loss"] for row in rows]))
    error = points_R.std(ddof=1) / len(points_R) ** 0.5 if len(points_R) > 1 else 0.0
    return f"{points_R.mean():+.2f} ± {error:.2f}; {loss:+.3f}"


if __name__ == "__main__":
    main()
