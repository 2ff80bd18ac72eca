"""Accuracy and seconds of the recipe `fast` on CIFAR-10 beside the published method in plain PyTorch, taking turns.

    python benchmarks/fast_recipe.py $LOUPE_DATA/cifar10 --work work --seeds 0 1 2 --write results

Every training is a process of its own: `loupe train --recipe fast`, and benchmarks/peers/torch_fast_cnn.py, which has
all training images, while Loupe holds validation images out of them. Seconds of the recipe are those of the whole
command, from the encoded images to the report; those of the peer begin with decoded pixels and end with the accuracy.
With --small-images the recipe `small-images` takes part too. A contender's time for a seed does not include test-time
augmentation.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from loupe.cache import cache_folder
from loupe.config.recipe import Preprocessing
from loupe.data.dataset import open_dataset
from loupe.data.pixels.prepare import load_images
from setting import commit, machine

HERE = Path(__file__).resolve().parent
PEER = "PyTorch"
TTA = {"accuracy": None, "flip": "flip", "flip and shift": "flip-shift"}
Row = dict[str, Any]


def prepare(data: str, side_px: int, path: Path) -> Path:
    """Decoded images of both splits, as the peer reads them."""
    dataset = open_dataset(data)
    table = dataset.table
    images = load_images(dataset, Preprocessing(size_px=side_px, load_px=side_px), cache=cache_folder())
    splits = {name: np.flatnonzero(np.array(table.splits) == name) for name in ("train", "test")}
    pixels = {f"x_{name}": images.store.read(rows_N) for name, rows_N in splits.items()}
    np.savez(path, **pixels, **{f"y_{name}": table.labels[rows_N] for name, rows_N in splits.items()})
    return path


def said(*words: object, threads: int) -> str:
    """Standard output of a process with so many threads; SystemExit if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{words} failed with exit code {done.returncode}:\n{done.stderr[-4000:]}")
    return done.stdout


def of_loupe(recipe: str, seed: int, given: argparse.Namespace) -> Row:
    """Train a recipe, then evaluate the test images with each test-time augmentation."""
    settings = [word for setting in given.set for word in ("--set", setting)]
    name, began = f"{recipe}-{seed}-{time.time_ns()}", time.perf_counter()
    command = ["-m", "loupe", "train", given.data, "--recipe", recipe, "--seed", seed, "--output", given.work]
    said(*command, "--name", name, "--quiet", *settings, threads=given.threads)
    seconds, run = time.perf_counter() - began, given.work / name
    row: Row = {"contender": recipe, "seed": seed, "seconds": seconds}
    row["train_seconds"] = json.loads((run / "results.json").read_text())["seconds"]["train"]
    for key, tta in TTA.items():
        options = ["--tta", tta] if tta else []
        found = said("-m", "loupe", "evaluate", run, "--split", "test", "--json", *options, threads=given.threads)
        row[key] = json.loads(found)["accuracy"]["value"]
    return row


def of_peer(pixels: Path, seed: int, given: argparse.Namespace) -> Row:
    options = [f"--seed={seed}", f"--epochs={given.peer_epochs}", f"--batch={given.peer_batch}"]
    script = HERE / "peers" / "torch_fast_cnn.py"
    found = json.loads(said(script, pixels, *options, f"--threads={given.threads}", threads=given.threads))
    times = {key: found[key] for key in ("seconds", "train_seconds", "accuracy")}
    return {"contender": PEER, "seed": seed, **times, "flip and shift": found["accuracy_tta"]}


def summary(rows: list[Row]) -> dict[str, Row]:
    """Mean accuracies and median seconds of each contender, and its time as a share of the peer's, by seeds."""
    peers = {row["seed"]: row["seconds"] for row in rows if row["contender"] == PEER}
    found: dict[str, Row] = {}
    for name in dict.fromkeys(row["contender"] for row in rows):
        mine = [row for row in rows if row["contender"] == name]
        found[name] = {key: statistics.fmean(row[key] for row in mine) for key in TTA if key in mine[0]}
        found[name] |= {key: statistics.median(row[key] for row in mine) for key in ("seconds", "train_seconds")}
        found[name]["ratio"] = statistics.median(row["seconds"] / peers[row["seed"]] for row in mine)
    return found


def markdown(result: Row) -> str:
    place = result["machine"]
    keys = list(TTA)
    lines = ["# The recipe `fast`", "", f"Test accuracy in percent; seeds: {len(result['seeds'])}.", ""]
    lines += [f"| | {' | '.join(keys)} | seconds, training | seconds, in all | of the peer's |", "|---|" + "---:|" * 6]
    for name, row in result["summary"].items():
        scores = " | ".join(f"{100 * row[key]:.2f}" if key in row else "–" for key in keys)
        lines.append(f"| {name} | {scores} | {row['train_seconds']:.0f} | {row['seconds']:.0f} | {row['ratio']:.2f} |")
    lines += ["", f"* Command: `{result['command']}`", f"* Commit: {result['commit']}; {result['date']}"]
    lines += [f"* Machine: {place['processor']}, {place['cores']} cores, {place['threads']} threads", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="CIFAR-10, or other small images in splits train and test")
    parser.add_argument("--work", type=Path, required=True, help="where runs and pixels are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--small-images", action="store_true", help="also train the recipe small-images")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="setting of Loupe's recipes")
    parser.add_argument("--side-px", type=int, default=32, help="side of the images for the peer")
    parser.add_argument("--peer-epochs", type=int, default=8)
    parser.add_argument("--peer-batch", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write fast_recipe.md and .json here")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    pixels = prepare(given.data, given.side_px, given.work / "pixels.npz")
    rows: list[Row] = []
    recipes = ["fast", *(["small-images"] if given.small_images else [])]
    for number, seed in enumerate(given.seeds):
        turns = [PEER, *recipes]
        for name in turns[number % len(turns) :] + turns[: number % len(turns)]:
            rows.append(of_peer(pixels, seed, given) if name == PEER else of_loupe(name, seed, given))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    seeds = " ".join(map(str, given.seeds))
    result = {
        "command": f"python benchmarks/fast_recipe.py $LOUPE_DATA/cifar10 --work work --seeds {seeds}",
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(given.threads),
        "seeds": given.seeds,
        "rows": rows,
        "summary": summary(rows),
    }
    page = markdown(result)
    print(page)
    if given.write:
        given.write.mkdir(parents=True, exist_ok=True)
        (given.write / "fast_recipe.md").write_text(page, encoding="utf-8")
        (given.write / "fast_recipe.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
