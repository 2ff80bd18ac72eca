"""Cost of each step as the number of images grows: time of an image, and memory.

    python benchmarks/growth.py --sizes 10000,100000 --write results
    python benchmarks/growth.py --tables 1000000

Images of 28 px are made, ten classes of digits with noise, no two alike, as PNG in Parquet files of 10,000 rows and as
files in folders. Each size and form is a process of its own, with a cache of its own, so that nothing is remembered.
Steps are those of `loupe train`, `loupe check` and `loupe predict`, one after the other:

* listing, hashing, check, split (drawn), storing (decoded once, into the cache)
* epoch: one epoch of a small network; evaluation: logits of validation and test images; report: metrics, files and page
* prediction: all images, from their files; labels.csv: their table
* split.csv and predictions.csv: written and read, one row for each image

Time of an image is that of the step by the images that it handles, in the fastest of the rounds: other work on the
machine only adds to it. Memory, known on Linux alone, is without mapped files, as stored pixels are.
"""

import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from sklearn.datasets import load_digits

import loupe
from growth_steps import Step, Steps, fastest, markdown
from loupe.cache import cache_folder
from loupe.config.network import CnnSpec, ConvBlock
from loupe.config.recipe import Preprocessing, Recipe, SplitSpec, Stage
from loupe.data.audit.check import check
from loupe.data.dataset import open_dataset
from loupe.data.pixels.prepare import load_images
from loupe.data.splits import split as splits
from loupe.data.splits import split_file
from loupe.data.table import ImageTable, make_rows
from loupe.evaluate.predictions import Predictions, read_splits, write_splits
from loupe.runs import classify
from loupe.runs.finalize import RunFinalizer
from loupe.training.loop import Trainer
from setting import commit, machine

FORMS = ("parquet", "files")
SIDE = 28
SHARD_ROWS = 10_000
WARMUP_IMAGES = 200
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SMALL = Recipe(
    name="growth",
    description="One epoch of one convolution, which takes about as long as reading the images.",
    model=CnnSpec(name="growth", blocks=(ConvBlock(filters=(8,), pool_px=4),)),
    stages=(Stage(epochs=1, batch_size=256),),
    precision="fp32",
)


def made(count: int) -> Iterator[tuple[int, bytes]]:
    """Classes and PNG files, no two alike."""
    bunch, random = load_digits(), np.random.default_rng(0)
    enlarged = np.pad(bunch.images.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2))) * 12
    for number in range(count):
        of = number % len(enlarged)
        noisy = enlarged[of] + random.integers(0, 60, (SIDE, SIDE))
        buffer = io.BytesIO()
        Image.fromarray(noisy.astype(np.uint8)).save(buffer, "PNG", compress_level=1)
        yield int(bunch.target[of]), buffer.getvalue()


def write_images(folder: Path, form: str, count: int) -> None:
    """Images as a data set of that form."""
    folder.mkdir(parents=True)
    if form == "files":
        for name in NAMES:
            (folder / name).mkdir()
        for number, (label, data) in enumerate(made(count)):
            (folder / NAMES[label] / f"{number}.png").write_bytes(data)
        return
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": NAMES}}
    images, shards = made(count), -(-count // SHARD_ROWS)
    for shard in range(shards):
        rows = [next(images) for _ in range(min(SHARD_ROWS, count - shard * SHARD_ROWS))]
        table = pa.table(
            {"image": [{"bytes": data, "path": None} for _, data in rows], "label": [label for label, _ in rows]}
        )
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, folder / f"train-{shard:05d}-of-{shards:05d}.parquet")


def run_steps(data: Path, work: Path) -> list[Step]:
    """All steps on one data set, with results in the folder `work`."""
    work.mkdir(parents=True)
    steps = Steps()
    step = steps.step
    count = len(open_dataset(data, announce=False).table)
    with step("listing", count):
        dataset = open_dataset(data, announce=False)
    table = dataset.table
    with step("hashing", count):
        content = dataset.hashes
    with step("check", count):
        check(table, content)
    with step("split", count):
        split = splits.assign(table, content, SplitSpec(), 0)
    with step("split.csv, written", count):
        split_file.write(work / "split.csv", table, content, split)
    with step("split.csv, read", count):
        split_file.read(work / "split.csv", table, content)
    with step("storing", count):
        load_images(dataset, Preprocessing(size_px=SIDE, load_px=SIDE), cache=cache_folder())
    held_out = len(split.val) + len(split.test)
    with ExitStack() as patches:
        steps.wrap(patches, Trainer, "fit", "epoch", len(split.train))
        steps.wrap(patches, RunFinalizer, "_predictions", "evaluation", held_out)
        steps.wrap(patches, RunFinalizer, "write", "report", held_out)
        with step("rest of train", count):
            run = loupe.train(dataset, recipe=SMALL, output=work / "runs", quiet=True)
    with step("prediction", count):
        predictions = run.predictions(table)
    with step("labels.csv, written", count):
        labelled = classify.label(predictions, top=2)
        classify.write_csv(work / "labels.csv", [labelled], predictions.classes, top=2)
    with step("predictions.csv, written", count):
        write_splits(work / "predictions.csv", {"all": predictions})
    with step("predictions.csv, read", count):
        read_splits(work / "predictions.csv")
    return steps.done


def run_tables(rows: int, work: Path) -> list[Step]:
    """Steps on tables of so many rows alone, without images."""
    random, steps = np.random.default_rng(0), Steps()
    label_N = np.arange(rows) % len(NAMES)
    paths = tuple(f"{NAMES[label]}/{number}.png" for number, label in enumerate(label_N.tolist()))
    content = tuple(hashlib.sha256(path.encode()).hexdigest() for path in paths)
    table = ImageTable(make_rows(n=rows, path=list(paths), label=label_N), NAMES, "made", root=work)
    logits_NK = random.normal(size=(rows, len(NAMES))).astype(np.float32)
    predictions = Predictions(paths, content, label_N, logits_NK, NAMES)
    with steps.step("split", rows):
        split = splits.assign(table, content, SplitSpec(), 0)
    with steps.step("split.csv, written", rows):
        split_file.write(work / "split.csv", table, content, split)
    with steps.step("split.csv, read", rows):
        split_file.read(work / "split.csv", table, content)
    with steps.step("predictions.csv, written", rows):
        write_splits(work / "predictions.csv", {"all": predictions})
    with steps.step("predictions.csv, read", rows):
        read_splits(work / "predictions.csv")
    return steps.done


def measure_in_process(data: Path, work: Path) -> list[Step]:
    """Steps in a process of its own, with an empty cache, after the same on a few images, which loads all modules."""
    few = work / "few"
    write_images(few, FORMS[0], WARMUP_IMAGES)
    command = [sys.executable, str(Path(__file__).resolve()), "--steps", str(few), str(data), "--work", str(work)]
    environment = {**os.environ, "LOUPE_CACHE": str(work / "cache")}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"the steps on {data} failed with exit code {done.returncode}")
    shutil.rmtree(work)
    return [Step(**row) for row in json.loads(done.stdout.strip().splitlines()[-1])]


def measure(sizes: list[int], forms: list[str], rounds: int, folder: Path) -> dict[str, dict[int, list[Step]]]:
    """Steps of each form and size, the fastest of rounds in which the sizes take turns."""
    found: dict[str, dict[int, list[Step]]] = {}
    for form in forms:
        places = {count: folder / f"{form}-{count}" for count in sizes}
        for count, place in places.items():
            write_images(place, form, count)
        measured: dict[int, list[list[Step]]] = {count: [] for count in sizes}
        for number in range(rounds):
            for count, place in places.items():
                print(f"{form}, {count:,} images, round {number + 1}", file=sys.stderr)
                measured[count].append(measure_in_process(place, folder / "work"))
        found[form] = {count: [*map(fastest, *several)] for count, several in measured.items()}
        for place in places.values():
            shutil.rmtree(place)
    return found


def sizes_in(text: str) -> list[int]:
    """Numbers of images, separated by commas."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=sizes_in, default=[10_000, 100_000, 1_000_000], help="such as 10000,100000")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="folder for images, deleted afterwards; default a temporary one")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write growth.md and growth.json here")
    parser.add_argument("--tables", type=int, metavar="ROWS", help="only the tables, of so many rows, without images")
    parser.add_argument("--steps", type=Path, nargs=2, help=argparse.SUPPRESS)  # the process of one size
    given = parser.parse_args()
    if given.tables:
        with tempfile.TemporaryDirectory(dir=given.work) as folder:
            for step in run_tables(given.tables, Path(folder)):
                print(f"| {step.name} | {step.seconds:.1f} s |")
        return
    if given.steps:
        few, data = given.steps
        run_steps(few, given.work / "warmup")
        print("warm", file=sys.stderr)
        print(json.dumps([asdict(step) for step in run_steps(data, given.work / "steps")]))
        return
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        steps = measure(given.sizes, given.forms, given.rounds, Path(folder))
    shown = f"--sizes {','.join(map(str, given.sizes))} --forms {' '.join(given.forms)} --rounds {given.rounds}"
    result = {
        "command": f"python benchmarks/growth.py {shown}",
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(torch.get_num_threads()),
        "sizes": given.sizes,
        "rounds": given.rounds,
        "steps": {
            form: {str(size): [asdict(step) for step in done] for size, done in by_size.items()}
            for form, by_size in steps.items()
        },
    }
    page = markdown(result)
    print(page)
    if given.write:
        given.write.mkdir(parents=True, exist_ok=True)
        (given.write / "growth.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        (given.write / "growth.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
