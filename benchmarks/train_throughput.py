"""Images per second of training deep-cnn: Loupe beside Keras and beside a plain PyTorch loop, alternating in one run.

    python benchmarks/train_throughput.py --keras-python keras-venv/bin/python --rounds 5 --write results

Every measurement is a process of its own (benchmarks/peers/), on the same 45,000 images of CIFAR-10, batch 128: once
with the document's augmentation, once without. A round runs them all, in an order that turns by one each round, so that
whatever else the machine does falls on all of them. The table shows medians over the rounds, and ranges.
How to set Keras's environment up stands in peers/keras_deep_cnn.py; without --keras-python it is left out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
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
MODES = ("augmented", "plain")
TRAINING_IMAGES = 45_000
Outcome = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """A program to be timed; `options` are its own, after the ones that all share."""

    name: str
    python: str
    script: str
    options: tuple[str, ...] = ()

    def run(self, pixels: Path, mode: str, given: argparse.Namespace) -> Outcome:
        """One process, from start to the JSON on its last line; SystemExit with its words where it fails."""
        shared = [f"--{name}={getattr(given, name)}" for name in ("warmup", "steps", "threads")]
        command = [
            self.python,
            str(HERE / "peers" / self.script),
            str(pixels),
            f"--mode={mode}",
            *shared,
            *self.options,
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise SystemExit(f"{self.name} failed with exit code {done.returncode}:\n{done.stderr[-4000:]}")
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def peers(keras_python: str | None) -> list[Peer]:
    ours = [
        Peer("Loupe", sys.executable, "loupe_deep_cnn.py"),
        Peer("PyTorch bf16", sys.executable, "torch_deep_cnn.py", ("--precision=bf16",)),
        Peer("PyTorch fp32", sys.executable, "torch_deep_cnn.py", ("--precision=fp32",)),
    ]
    return [*ours, Peer("Keras", keras_python, "keras_deep_cnn.py")] if keras_python else ours


def prepare(data: str, folder: Path) -> Path:
    """The training pixels, decoded by Loupe, as a file that every peer reads."""
    dataset = open_dataset(data)
    table = dataset.table
    images = load_images(dataset, Preprocessing(size_px=32, load_px=32), cache=cache_folder())
    rows = np.flatnonzero(np.array(table.splits) == "train")[:TRAINING_IMAGES]
    path = folder / "pixels.npz"
    np.savez(path, x=images.store.read(rows), y=table.labels[rows])
    return path


def measure(chosen: Sequence[Peer], pixels: Path, given: argparse.Namespace) -> dict[tuple[str, str], list[Outcome]]:
    """The outcomes of every round by (peer, mode)."""
    turns = [(peer, mode) for mode in given.modes for peer in chosen]
    outcomes: dict[tuple[str, str], list[Outcome]] = {(peer.name, mode): [] for peer, mode in turns}
    for number in range(given.rounds):
        for peer, mode in turns[number % len(turns) :] + turns[: number % len(turns)]:
            outcome = peer.run(pixels, mode, given)
            outcomes[peer.name, mode].append(outcome)
            print(f"round {number + 1}  {peer.name:<14}{mode:<11}{outcome['images_per_second']:8.0f}", file=sys.stderr)
    return outcomes


def summary(rounds: list[Outcome], keras: list[Outcome]) -> dict[str, Any]:
    """Medians and ranges of one peer in one mode, and its ratio to Keras: the median of the rounds' own ratios."""
    speeds = [outcome["images_per_second"] for outcome in rounds]
    ratios = [mine / outcome["images_per_second"] for mine, outcome in zip(speeds, keras, strict=False)]
    return {
        "images_per_second": statistics.median(speeds),
        "low": min(speeds),
        "high": max(speeds),
        "best_step": max(outcome["best_step"] for outcome in rounds),
        "ratio_to_keras": statistics.median(ratios) if ratios else None,
        "ratio_low": min(ratios) if ratios else None,
        "ratio_high": max(ratios) if ratios else None,
        "peak_mib": statistics.median(outcome["peak_mib"] for outcome in rounds),
        "precision": rounds[-1]["precision"],
        "rounds": speeds,
    }


def command(given: argparse.Namespace) -> str:
    """The command line, without the places where things lie on this machine."""
    keras = " --keras-python $KERAS_PYTHON" if given.keras_python else ""
    shown = f"--rounds {given.rounds} --steps {given.steps} --warmup {given.warmup} --threads {given.threads}"
    return f"python benchmarks/train_throughput.py $LOUPE_DATA/cifar10{keras} {shown}"


def markdown(result: dict[str, Any]) -> str:
    """The page: one table for each mode, then what was run and on what."""
    lines = [
        "# Training throughput",
        "",
        f"Images per second of training `{result['network']}`, medians over rounds.",
        "",
    ]
    for mode in result["modes"]:
        title = "With the augmentation of the document" if mode == "augmented" else "Without augmentation"
        lines += [f"## {title}", "", "| | precision | images/s | range | × Keras | range | peak memory, MiB |"]
        lines += ["|---|---|---:|---:|---:|---:|---:|"]
        for name, row in result[mode].items():
            ratio = f"{row['ratio_to_keras']:.2f}" if row["ratio_to_keras"] else "–"
            ratios = f"{row['ratio_low']:.2f}–{row['ratio_high']:.2f}" if row["ratio_to_keras"] else "–"
            speeds = f"{row['images_per_second']:,.0f} | {row['low']:,.0f}–{row['high']:,.0f}"
            lines.append(f"| {name} | {row['precision']} | {speeds} | {ratio} | {ratios} | {row['peak_mib']:,.0f} |")
        lines.append("")
    if result["keras_generator_images_per_second"]:
        alone = result["keras_generator_images_per_second"]
        lines += [f"Keras's generator alone gives {alone:,.0f} images/s: it is not what limits Keras here.", ""]
    place = result["machine"]
    has = "unknown"
    if place["flags"]:
        has = ", ".join(f"{flag} {'yes' if there else 'no'}" for flag, there in place["flags"].items())
    cores = f"{place['cores']} cores, {place['threads']} threads"
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines += [
        f"* Command: `{result['command']}`",
        f"* Commit: {result['commit']}; {result['date']}",
        f"* Machine: {place['processor']}, {cores}, {place['system']} ({has})",
        f"* Versions: Python {place['python']}, {versions}",
        f"* {result['rounds']} rounds of {result['steps']} timed steps of 128 images; 45,000 images in memory.",
        "",
    ]
    return "\n".join(lines)


def assemble(outcomes: dict[tuple[str, str], list[Outcome]], given: argparse.Namespace) -> dict[str, Any]:
    keras = {mode: outcomes.get(("Keras", mode), []) for mode in MODES}
    generator = [outcome["generator_images_per_second"] for outcome in keras["augmented"]]
    tables = {
        mode: {name: summary(rounds, keras[mode]) for (name, at), rounds in outcomes.items() if at == mode}
        for mode in given.modes
    }
    versions: dict[str, str] = {}
    for rounds in outcomes.values():
        versions = rounds[-1]["versions"] | versions
    return {
        "network": "deep-cnn",
        "command": command(given),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(given.threads),
        "versions": versions,
        "modes": list(given.modes),
        "rounds": given.rounds,
        "steps": given.steps,
        "keras_generator_images_per_second": statistics.median(generator) if generator else None,
        **tables,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("LOUPE_DATA", HERE.parents[1] / "shared" / "data")) / "cifar10"
    parser.add_argument("data", nargs="?", default=str(default), help="CIFAR-10; default $LOUPE_DATA/cifar10")
    parser.add_argument("--keras-python", help="the interpreter of an environment that has TensorFlow")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=25, help="timed steps of each process")
    parser.add_argument("--warmup", type=int, default=5, help="steps before them")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write train_throughput.md and .json here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = measure(peers(given.keras_python), prepare(given.data, Path(folder)), given)
    result = assemble(outcomes, given)
    page = markdown(result)
    print(page)
    if given.write:
        given.write.mkdir(parents=True, exist_ok=True)
        (given.write / "train_throughput.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        (given.write / "train_throughput.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
