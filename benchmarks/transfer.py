"""Transfer learning with augmentation, from files to the last number: Loupe beside timm, fastai and Keras.

    python benchmarks/transfer.py $LOUPE_DATA --keras-python keras-venv/bin/python \
        --fastai-python fastai-venv/bin/python --rounds 3 --write results

Two jobs on 2,000 training photographs, with random resized crops and flips: a linear head on a frozen
tf_efficientnet_lite0, and its last block with a head; both for ten epochs, each validated, and one look at the test
images. Loupe solves the head over all its views for ten strengths of the penalty, where the peers take steps. It runs
with one augmented view of each image, with as many as it takes by itself, and with ten, which is a new one in every
epoch as the others have it. Every measurement is a process of its own (benchmarks/peers/) with an empty cache, and
counts from its start to its end, imports and evaluation included. All run with glibc's memory kept, which Loupe sees to
by itself and which makes the peers several times faster on a CPU. A round runs them all, in an order that turns by one
each round. How the peers' environments are set up stands in the peers.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from loupe import __version__
from setting import commit, machine

HERE = Path(__file__).resolve().parent
STAGES = {"features-augment": 0, "last-block": 1}  # the job is the name of Loupe's recipe: which stage trains
TITLES = {"features-augment": "A linear head on the frozen backbone", "last-block": "The last block with a head"}
NAMES = ("loupe-1-view", "loupe", "loupe-10-views", "timm-fp32", "timm-bf16", "fastai", "keras")
KEPT_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
Outcome = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """A program to be timed, with its words up to the folder for its output."""

    job: str
    name: str
    command: tuple[str, ...]

    def run(self, threads: int) -> Outcome:
        """One process, from its start to its end; SystemExit with its words where it fails."""
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            output = ["--output", f"{folder}/runs"] if self.name.startswith("loupe") else []
            environment = {"LOUPE_CACHE": f"{folder}/cache", "OMP_NUM_THREADS": str(threads), **KEPT_MEMORY}
            began, peak_mib = time.perf_counter(), 0.0
            with (place / "out").open("w") as out, (place / "err").open("w") as err:
                process = subprocess.Popen(
                    [*self.command, *output], env=os.environ | environment, stdout=out, stderr=err
                )
                while process.poll() is None:
                    peak_mib = resident_peak_mib(process.pid) or peak_mib
                    time.sleep(0.2)
            seconds = time.perf_counter() - began
            if process.returncode:
                words = (place / "err").read_text(encoding="utf-8")[-4000:]
                raise SystemExit(f"{self.name} ({self.job}) failed with exit code {process.returncode}:\n{words}")
            text = (place / "out").read_text(encoding="utf-8")
        found = loupe_outcome(json.loads(text)) if output else json.loads(text.strip().splitlines()[-1])
        return {**found, "seconds": seconds, "peak_mib": max(peak_mib, found.get("peak_mib", 0.0))}


def resident_peak_mib(pid: int) -> float | None:
    """The most memory that a process has held so far; None where the system does not say, or the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)


def loupe_outcome(results: dict[str, Any]) -> Outcome:
    """What a peer prints, from Loupe's results. Decoding and the frozen pass count as training: the peers' do too."""
    seconds = results["seconds"]
    return {
        "train_seconds": seconds["total"] - seconds["evaluate"],
        "val": results["validation"]["accuracy"]["value"],
        "test": results["test"]["accuracy"]["value"],
        "versions": {name: version(name) for name in ("torch", "openvino") if find_spec(name)} | {"loupe": __version__},
    }


def contenders(job: str, photographs: Path, given: argparse.Namespace) -> list[Contender]:
    weights = str(given.data / "weights" / "tf_efficientnet_lite0.in1k.safetensors")
    stage = f"stages.{STAGES[job]}"
    settings = ["--set", f"{stage}.epochs={given.epochs}"]
    loupe = [sys.executable, "-m", "loupe", "train", str(photographs), "--recipe", job, "--weights", weights, "--json"]
    shared = [str(photographs), f"--job={job}", f"--epochs={given.epochs}", f"--threads={given.threads}"]
    timm, fastai, keras = (str(HERE / "peers" / f"{name}_transfer.py") for name in ("timm", "fastai", "keras"))
    by_timm = [sys.executable, timm, *shared, f"--weights={weights}"]
    commands = {
        "loupe-1-view": [*loupe, *settings, "--set", f"{stage}.views=1"],
        "loupe": [*loupe, *settings],
        "loupe-10-views": [*loupe, *settings, "--set", f"{stage}.views=10"],
        "timm-fp32": [*by_timm, "--precision=fp32"],
        "timm-bf16": [*by_timm, "--precision=bf16"],
    }
    if given.fastai_python:
        commands["fastai"] = [given.fastai_python, fastai, *shared, f"--weights={weights}"]
    if given.keras_python:
        commands["keras"] = [given.keras_python, keras, *shared]
    return [Contender(job, name, tuple(words)) for name, words in commands.items() if name in (given.only or NAMES)]


def subset(source: Path, target: Path, per_class: dict[str, int | None]) -> Path:
    """A copy with the first so many images of each class in each split; None is all of them."""
    for split, images in per_class.items():
        for kind in sorted(path for path in (source / split).iterdir() if path.is_dir()):
            folder = target / split / kind.name
            folder.mkdir(parents=True)
            for path in sorted(kind.iterdir())[:images]:
                shutil.copy(path, folder)
    return target


def measure(turns: list[Contender], given: argparse.Namespace) -> dict[str, dict[str, list[Outcome]]]:
    """The outcomes of every round by job and name."""
    outcomes: dict[str, dict[str, list[Outcome]]] = {one.job: {} for one in turns}
    for number in range(given.rounds):
        for one in turns[number % len(turns) :] + turns[: number % len(turns)]:
            outcome = one.run(given.threads)
            outcomes[one.job].setdefault(one.name, []).append(outcome)
            print(f"round {number + 1}  {one.job}  {one.name}  {json.dumps(outcome)}", file=sys.stderr, flush=True)
    return outcomes


def median(rounds: list[Outcome], key: str) -> float | None:
    values = [outcome[key] for outcome in rounds]
    return None if None in values else statistics.median(values)


def summary(rounds: dict[str, list[Outcome]]) -> dict[str, Any]:
    """The medians of each contender of a job, and its time as a multiple of the fastest peer's on the same network."""
    keys = ("seconds", "train_seconds", "val", "test", "peak_mib")
    rows: dict[str, Any] = {name: {key: median(found, key) for key in keys} for name, found in rounds.items()}
    peers = {name: row["seconds"] for name, row in rows.items() if name.startswith(("timm", "fastai"))}
    fastest = min(peers, key=peers.__getitem__) if peers else None
    for name, row in rows.items():
        row["times_fastest_peer"] = row["seconds"] / peers[fastest] if fastest else None
        row["why"] = rounds[name][-1].get("why")
        row["rounds"] = [{key: outcome[key] for key in keys} for outcome in rounds[name]]
    return {"fastest_peer": fastest, "contenders": {name: rows[name] for name in NAMES if name in rows}}


def command(given: argparse.Namespace) -> str:
    """The command line, without the places where things lie on this machine."""
    words = ["python benchmarks/transfer.py $LOUPE_DATA", f"--rounds {given.rounds}", f"--threads {given.threads}"]
    words += [f"--epochs {given.epochs}", f"--jobs {','.join(given.jobs)}"]
    words += ["--keras-python $KERAS_PYTHON"] if given.keras_python else []
    words += ["--fastai-python $FASTAI_PYTHON"] if given.fastai_python else []
    words += [f"--images {given.images}"] if given.images else []
    words += ["--small"] if given.small else []
    words += [f"--only {' '.join(given.only)}"] if given.only else []
    return " ".join(words)


def markdown(result: dict[str, Any]) -> str:
    def share(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.2f} %"

    lines = ["# Transfer learning with augmentation", "", "Whole processes taking turns, medians over rounds.", ""]
    for job, table in result["jobs"].items():
        lines += [f"## {TITLES[job]}: `{job}`, {result['epochs']} epochs", ""]
        lines += [f"| | seconds | range | × {table['fastest_peer']} | training, s | validation | test | peak, MiB |"]
        lines += ["|---|---:|---:|---:|---:|---:|---:|---:|"]
        for name, row in table["contenders"].items():
            times = [one["seconds"] for one in row["rounds"]]
            ratio = "–" if row["times_fastest_peer"] is None else f"{row['times_fastest_peer']:.2f}"
            cells = [name, f"{row['seconds']:.1f}", f"{min(times):.1f}–{max(times):.1f}", ratio]
            cells += [f"{row['train_seconds']:.1f}", share(row["val"]), share(row["test"]), f"{row['peak_mib']:,.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
        lines += [""]
        lines += [f"{name}: {row['why']}.\n" for name, row in table["contenders"].items() if row["why"]]
    place = result["machine"]
    versions = "; ".join(
        f"{name}: {', '.join(' '.join(pair) for pair in found.items())}" for name, found in result["versions"].items()
    )
    lines += [
        f"* Command: `{result['command']}`",
        f"* Commit: {result['commit']}; {result['date']}",
        f"* Machine: {place['processor']}, {place['cores']} cores, {place['threads']} threads, {place['system']}",
        f"* Versions: {versions}",
        "* Peak memory is that of the main process: what the peers' two worker processes hold comes on top.",
        "* The weights are those of the epoch with the best validation accuracy.",
        "* In `last-block` Loupe first solves for the head, within its time; the peers begin with a random one.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("LOUPE_DATA", HERE.parents[1] / "shared" / "data"))
    parser.add_argument("data", type=Path, nargs="?", default=default, help="default $LOUPE_DATA")
    parser.add_argument("--keras-python", help="the interpreter of an environment that has TensorFlow")
    parser.add_argument("--fastai-python", help="the interpreter of an environment that has fastai and timm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--jobs", type=lambda words: words.split(","), default=list(STAGES), help="separated by commas")
    parser.add_argument("--only", nargs="+", choices=NAMES, help="these contenders alone")
    parser.add_argument("--images", type=int, help="training images of each class; default all")
    parser.add_argument("--small", action="store_true", help="20 images of each class in every split: a smoke test")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write transfer_speed.md and .json here")
    given = parser.parse_args()
    if unknown := set(given.jobs) - set(STAGES):
        parser.error(f"--jobs: {', '.join(unknown)} is none of {', '.join(STAGES)}")
    for name in {"keras", "fastai"} & set(given.only or ()):
        if not vars(given)[f"{name}_python"]:
            parser.error(f"--only {name} needs --{name}-python")
    each = 20 if given.small else None
    with tempfile.TemporaryDirectory() as folder:
        photographs = given.data / "cats_vs_dogs"
        if given.small or given.images:
            per_class = {"train": each or given.images, "val": each, "test": each}
            photographs = subset(photographs, Path(folder), per_class)
        outcomes = measure([one for job in given.jobs for one in contenders(job, photographs, given)], given)
    result = {
        "command": command(given),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(given.threads),
        "epochs": given.epochs,
        "versions": {
            name.partition("-")[0]: found[-1]["versions"] for rows in outcomes.values() for name, found in rows.items()
        },
        "jobs": {job: summary(rounds) for job, rounds in outcomes.items()},
    }
    page = markdown(result)
    print(page)
    if given.write:
        given.write.mkdir(parents=True, exist_ok=True)
        (given.write / "transfer_speed.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        (given.write / "transfer_speed.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
