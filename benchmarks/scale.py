"""One training and one prediction by 1, 2 and 4 processes on this machine: throughput, exchanges, memory.

    python benchmarks/scale.py $LOUPE_DATA/cifar10 RUN PHOTOS --rounds 5 --json results/scale.json

Trainings are `loupe train --processes N` on a part of CIFAR-10, predictions `loupe predict RUN PHOTOS` of the same
files, by one process to Parquet and by N processes to CSV; all take turns in every round. Each process of a command
gets its share of the cores as threads. A training of one process with one thread is measured too: N processes can be
at most N times as fast as it. Memory is the proportional share (PSS) of all processes of a command, at its largest.
Exchanges are those of N ranks that do nothing else: a plain value, and a tensor as large as the gradient. The last
part of the result is what benchmarks/scaling.py simulates clusters with.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from bulk import listing
from loupe.data.sources.folders import from_paths
from loupe.devices import cores
from loupe.errors import counted
from loupe.runs.predictor import Predictor
from prediction import alone
from setting import commit, machine
from subsets import cifar_subset

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parent / "src"
EXCHANGES = HERE / "peers" / "rank_exchanges.py"
SAMPLE_SECONDS = 0.2


class Memory(threading.Thread):
    """Largest memory of a process and all below it, in bytes, sampled while it runs. Zero without /proc."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._ended = threading.Event()
        self.largest = 0

    def run(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.largest = max(self.largest, sum(map(_proportional_share, _family(self._pid))))

    def stop(self) -> int:
        self._ended.set()
        self.join()
        return self.largest


def _family(pid: int) -> Iterator[int]:
    yield pid
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _family(int(child))


def _proportional_share(pid: int) -> int:
    with suppress(OSError, ValueError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return 0


def timed(words: Sequence[object], threads: int | None, cache: Path) -> dict[str, float]:
    """Seconds and largest memory of a command."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "LOUPE_CACHE": str(cache)}
    environment.pop("OMP_NUM_THREADS", None)
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    began = time.perf_counter()
    command = [sys.executable, "-m", *map(str, words)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    memory = Memory(process.pid)
    memory.start()
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{said}")
    return {"seconds": time.perf_counter() - began, "bytes": float(memory.stop())}


def training(data: Path, place: Path, processes: int, threads: int | None, options: Sequence[str]) -> dict[str, float]:
    """Training of one epoch after a first one: images/s of its steps, seconds and memory of the whole command."""
    words = ["loupe", "train", data, "--output", place, "--name", "run", "--device", "cpu", "--quiet", *options]
    found = timed([*words, *(["--processes", processes] if processes > 1 else [])], threads, place / "cache")
    results = json.loads((place / "run" / "results.json").read_text(encoding="utf-8"))
    return {**found, "images_per_second": results["images_per_second"]}


def prediction(run: Path, photos: Path, to: Path, processes: int) -> dict[str, float]:
    """Prediction of a folder of photographs: seconds and memory of the whole command."""
    words = ["loupe", "predict", run, photos, "--to", to, "--device", "cpu", "--quiet"]
    return timed([*words, *(["--processes", processes] if processes > 1 else [])], None, to.parent / "cache")


def exchanges(ranks: int, floats: int, repeats: int) -> dict[str, float]:
    """Median times of exchanges between ranks on this machine, one thread each."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks, EXCHANGES]
    options = ["--floats", floats, "--repeats", repeats]
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, [*words, *options])], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def rounds(given: argparse.Namespace, data: Path, work: Path) -> dict[str, dict[str, float]]:
    """Medians over the rounds, by kind of work and number of processes."""
    seen: dict[str, list[dict[str, float]]] = {}
    kinds = [("training, 1 process, 1 thread", 1, 1)]
    kinds += [(f"training, {counted(count, 'process')}", count, None) for count in given.processes]
    for number in range(given.rounds):
        for name, count, threads in kinds:
            with tempfile.TemporaryDirectory(dir=work) as place:
                seen.setdefault(name, []).append(training(data, Path(place), count, threads, given.options))
        for count in given.processes:
            suffix = "parquet" if count == 1 else "csv"
            with tempfile.TemporaryDirectory(dir=work) as place:
                to = Path(place) / f"answers-{number}.{suffix}"
                name = f"prediction, {counted(count, 'process')}, {suffix}"
                seen.setdefault(name, []).append(prediction(given.run, given.photos, to, count))
    return {
        name: {key: statistics.median(row[key] for row in rows) for key in rows[0]} | {"rounds": len(rows)}
        for name, rows in seen.items()
    }


def for_simulation(found: Sequence[Mapping[str, float]], run: Path, photos: Path, listed: int) -> dict[str, float]:
    """Measurements that benchmarks/scaling.py takes; times of exchanges as a line over the number of ranks."""
    counts = [row["ranks"] for row in found]
    line = np.stack([np.ones(len(counts)), counts], axis=1)
    (base, each), _ = nnls(line, np.array([row["value_seconds"] for row in found]))  # no time is below 0
    table, predictor = from_paths([str(photos)]), Predictor(run / "model", device="cpu")
    decoding, network = alone(predictor, table)
    few, many = (value for name, value in listing(run, photos, listed).items() if name.startswith("seconds"))
    return {
        "exchange_base_seconds": float(base),
        "exchange_each_seconds": float(each),
        "cores": cores(),
        "decoded_per_second": 1 / decoding,
        "predicted_per_second": 1 / network,
        "listed_per_second": (listed - max(1, listed // 100)) / (many - few),
    }


def report(result: Mapping[str, Any], images: int) -> None:
    print("| | images/s | whole command, s | largest memory, MB |\n|---|---|---|---|")
    for name, row in result["medians"].items():
        speed = row.get("images_per_second", images / row["seconds"])
        print(f"| {name} | {speed:,.1f} | {row['seconds']:.1f} | {row['bytes'] / 1e6:,.0f} |")
    print("\n| ranks | a value, ms | a tensor of {:,} bytes, ms |\n|---|---|---|".format(result["tensor_bytes"]))
    for row in result["exchanges"]:
        print(f"| {row['ranks']} | {1e3 * row['value_seconds']:.2f} | {1e3 * row['tensor_seconds']:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar10", type=Path)
    parser.add_argument("run", type=Path, help="run of photographs")
    parser.add_argument("photos", type=Path, help="folder of photographs to predict")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8], help="numbers of ranks that exchange")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--each", type=int, default=500, help="training images of each class")
    parser.add_argument("--floats", type=int, default=309_290, help="weights of the network, for the exchange")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--listed", type=int, default=500_000, help="paths of a list, for the speed of listing")
    parser.add_argument(
        "--options",
        nargs=argparse.REMAINDER,
        default=["--recipe", "small-images", "--epochs", "2", "--precision", "fp32"],
        help="options of the trainings; last",
    )
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = cifar_subset(given.cifar10, work / "cifar10", train=given.each, test=max(1, given.each // 10))
        medians = rounds(given, data, work)
        measured = [exchanges(count, given.floats, given.repeats) for count in given.ranks]
    result = {
        "medians": medians,
        "exchanges": measured,
        "tensor_bytes": given.floats * 4,
        "for_simulation": for_simulation(measured, given.run, given.photos, given.listed),
        "commit": commit(),
        "machine": machine(cores()),
    }
    report(result, len(from_paths([str(given.photos)])))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
