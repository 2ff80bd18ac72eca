"""Predictions in bulk: their speed beside decoding alone and the engine alone, and the memory that they take.

    python benchmarks/bulk.py RUN PHOTOS --rounds 5
    python benchmarks/bulk.py RUN PHOTOS --memory 200 20000
    python benchmarks/bulk.py RUN PHOTOS --listing 1000000

RUN is a finished run, PHOTOS a folder of images. In each round decoding alone, the engine alone on decoded pixels, and
`loupe predict --to OUT.parquet` take turns in this process, all with the same images; the engine is loaded before.
`bound` is the slower of the two alone. Where both compute on the same cores, no order of work reaches it: `in turn` is
the speed of one after the other. `--memory` compares the largest resident memory of commands with few and many images,
links to those of PHOTOS. `--listing` has the memory and the seconds of listing a CSV of that many paths. The last line
is the same as JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from loupe.bulk.lists import ListSource
from loupe.bulk.models import bulk_model
from loupe.bulk.opening import source_of
from loupe.bulk.output import Output
from loupe.bulk.plan import Settings, asked_of, make_plan
from loupe.bulk.predict import predict_bulk
from loupe.data.pixels.prepare import encoded
from loupe.data.pixels.stream import in_batches, stream
from loupe.data.processes import worker_count
from loupe.data.sources.folders import from_paths
from loupe.data.sources.read_options import ReadOptions
from loupe.data.table import ImageTable
from loupe.runs.predictor import Predictor
from setting import commit, machine

SOURCES = Path(__file__).resolve().parents[1] / "src"
HELD_BATCHES = 8  # of decoded pixels, on which the engine is timed over and over


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--memory", nargs=2, type=int, metavar=("FEW", "MANY"), help="numbers of images")
    parser.add_argument("--listing", type=int, metavar="PATHS", help="number of rows of a CSV")
    parser.add_argument("--list-here", type=Path, help=argparse.SUPPRESS)  # in a process of its own
    given = parser.parse_args()
    if given.list_here:
        list_here(given.list_here)
    elif given.memory:
        report("memory", memory(given.run, given.photos, given.memory, given.device))
    elif given.listing:
        report("listing", listing(given.run, given.photos, given.listing))
    else:
        report("speed", speeds(given.run, given.photos, given.rounds, given.device))


def report(what: str, figures: dict[str, Any]) -> None:
    print("| | |\n|---|---|")
    for name, value in figures.items():
        print(f"| {name} | {value:,.2f} |" if isinstance(value, float) else f"| {name} | {value} |")
    print(json.dumps({"what": what, **figures, "commit": commit(), "machine": machine(worker_count())}))


def speeds(run: Path, photos: Path, rounds: int, device: str) -> dict[str, Any]:
    """Medians of images per second over the rounds, and of the ratios of each round."""
    predictor, table = Predictor(run / "model", device=device), from_paths([str(photos)])
    found: dict[str, list[float]] = {}
    for number in range(rounds + 1):  # the first fills caches
        decoding, pixels = decoded(predictor, table)
        engine = engine_alone(predictor, pixels, len(table))
        both = bulk(predictor, photos, len(table))
        bound = min(decoding, engine)
        in_turn = 1 / (1 / decoding + 1 / engine)
        values = {"decoding": decoding, "engine": engine, "bound": bound, "in turn": in_turn, "bulk": both}
        values |= {"bulk / bound": both / bound, "bulk / in turn": both / in_turn}
        for name, value in values.items() if number else ():
            found.setdefault(name, []).append(value)
    medians = {name: statistics.median(values) for name, values in found.items()}
    return {"images": len(table), "engine name": predictor.engine.name, **medians}


def decoded(predictor: Predictor, table: ImageTable) -> tuple[float, list[Any]]:
    """Images per second of decoding, and some batches of pixels."""
    pixels: list[Any] = []
    began = time.perf_counter()
    with closing(stream(encoded(table, predictor.preprocessing), "decoding")) as chunks:
        for batch in in_batches((chunk for chunk in chunks if len(chunk)), predictor.engine.batch_images):
            if len(pixels) < HELD_BATCHES:
                pixels.append(batch.pixels)
    return len(table) / (time.perf_counter() - began), pixels


def engine_alone(predictor: Predictor, pixels: list[Any], images: int) -> float:
    """Images per second of the engine on as many images as are decoded."""
    done = 0

    def again() -> Iterator[Any]:
        nonlocal done
        while done < images:
            for batch in pixels:
                if done < images:
                    done += len(batch)
                    yield batch

    began = time.perf_counter()
    for _ in predictor.engine.run(again()):
        pass
    return done / (time.perf_counter() - began)


def settings(model: Any) -> Settings:
    return Settings(
        model=model.hash, classes=model.classes, temperature=model.temperature, threshold=0.0, top=1, tta=None
    )


def bulk(predictor: Predictor, photos: Path, images: int) -> float:
    """Images per second of everything: listing, decoding, engine, parts, and the file of them."""
    model, options = bulk_model(predictor), ReadOptions.of()
    with tempfile.TemporaryDirectory() as folder:
        source = source_of([str(photos)], None, options)
        began = time.perf_counter()
        output = Output(Path(folder) / "out.parquet", is_folder=False)
        predict_bulk(output, source, asked_of(source, options, settings(model)), model)
        return images / (time.perf_counter() - began)


def memory(run: Path, photos: Path, counts: list[int], device: str) -> dict[str, Any]:
    """Largest resident memory in MiB of the command with few and with many images, and its seconds."""
    files = [path.resolve() for path in sorted(photos.rglob("*")) if path.is_file()]
    found: dict[str, Any] = {}
    for count in counts:
        with tempfile.TemporaryDirectory(dir=photos.parent) as folder:
            place = Path(folder) / "images"
            for k in range(count):
                target = place / f"{k // 1000:04}" / f"{k:08}{files[k % len(files)].suffix}"
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(files[k % len(files)], target)
            words = ["-m", "loupe", "predict", run, place, "--to", Path(folder) / "out.parquet", "--device", device]
            mib, seconds = in_child([*words, "--quiet"])
        found |= {f"MiB with {count:,} images": mib, f"seconds with {count:,} images": seconds}
    few, many = (found[f"MiB with {count:,} images"] for count in counts)
    return {**found, "ratio of memory": many / few}


def listing(run: Path, photos: Path, paths: int) -> dict[str, Any]:
    """Largest resident memory in MiB and seconds of listing a CSV, and those of one with a hundredth of the rows."""
    file = next(path for path in sorted(photos.rglob("*")) if path.is_file())
    found: dict[str, Any] = {}
    for rows in (max(1, paths // 100), paths):
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / "list.csv"
            with table.open("w", encoding="utf-8") as opened:
                opened.write("path,id\n")
                opened.writelines(f"photos/{k // 1000:06}/{k:012}.jpg,{k}\n" for k in range(rows - 1))
                opened.write(f"{file.name},last\n")
            (Path(folder) / file.name).write_bytes(file.read_bytes())
            mib, seconds = in_child([__file__, run, photos, "--list-here", table])
        found |= {f"MiB with {rows:,} rows": mib, f"seconds with {rows:,} rows": seconds}
    return found


def list_here(table: Path) -> None:
    """Plan of a list, in this process."""
    options = ReadOptions.of()
    source = ListSource(table, options)
    none = Settings(model="none", classes=("a",), temperature=1.0, threshold=0.0, top=1, tta=None)
    make_plan(table.parent, source, asked_of(source, options, none))


STARTER = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(json.dumps([resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, time.perf_counter() - began]))
"""  # a small process: the memory of the process that starts a command counts as the command's


def in_child(words: list[Any]) -> tuple[float, float]:
    """Largest resident memory in MiB and seconds of a Python process."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    started = [sys.executable, "-c", STARTER, sys.executable, *map(str, words)]
    done = subprocess.run(started, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    mib, seconds = json.loads(done.stdout)
    return mib, seconds


if __name__ == "__main__":
    main()
