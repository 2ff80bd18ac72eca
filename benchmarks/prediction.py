"""`loupe predict` as a command: one photograph, and many, beside decoding alone and the network alone.

    python benchmarks/prediction.py RUN PHOTOS --rounds 5 --before /path/to/older/src OLDER_RUN
    python benchmarks/prediction.py RUN PHOTOS --networks digits-cnn resnet18

RUN is a finished run, PHOTOS a folder of images. With `--before`, the same commands of other sources take turns with
these, in child processes. `decoding` and `network` are measured in this process, each alone, from files in memory and
from decoded pixels; `bound` is the slower of the two. Medians of the rounds, in images per second, in seconds, and the
largest resident memory of a command. The last line is the same as JSON. With `--networks`, the two engines alone
instead: networks of random weights, in fp32, on batches of noise, in turn.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from loupe.config.network import BackboneSpec
from loupe.config.recipe import Preprocessing
from loupe.data.pixels.prepare import encoded
from loupe.data.pixels.read_ahead import cut
from loupe.data.pixels.stream import in_batches, stream
from loupe.data.processes import worker_count
from loupe.data.sources.folders import from_paths
from loupe.devices import Compute, keep_freed_memory
from loupe.models.build import build
from loupe.models.catalog import network
from loupe.models.conversion import convert
from loupe.models.engine_choice import flop
from loupe.models.openvino_network import OpenVinoNetwork
from loupe.models.pretrained import native_preprocessing
from loupe.models.torch_network import TorchNetwork
from loupe.runs.predictor import Predictor
from setting import commit, machine

SOURCES = Path(__file__).resolve().parents[1] / "src"
OWN_PX = {"catsdogs-cnn": 150, "photo-cnn": 128, "digits-cnn": 8}  # of networks of Loupe; the others 32
STARTER = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
took = time.perf_counter() - began
print(json.dumps([took, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3]))
"""  # a small process, as the memory of the process that starts a command counts as the command's
BATCHES = 8  # batches of decoded pixels that the network is timed on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", nargs=2, type=Path, metavar=("SOURCES", "RUN"), help="other sources, and their run")
    parser.add_argument("--networks", nargs="+", help="time PyTorch and OpenVINO on these networks instead")
    parser.add_argument("--images", type=int, default=64, help="images in a round of --networks")
    given = parser.parse_args()
    if given.networks:
        networks(given.networks, given.rounds, given.images)
    else:
        commands_of_a_run(given)


def commands_of_a_run(given: argparse.Namespace) -> None:
    commands = {"after": (SOURCES, given.run), **({"before": tuple(given.before)} if given.before else {})}
    one = next(path for path in sorted(given.photos.rglob("*")) if path.is_file())
    table = from_paths([str(given.photos)])
    predictor = Predictor(given.run / "model", device="cpu")
    seconds: dict[str, list[float]] = {}
    megabytes: dict[str, list[float]] = {}
    for _ in range(given.rounds):
        decoding, network = alone(predictor, table)
        seconds.setdefault("decoding", []).append(decoding)
        seconds.setdefault("network", []).append(network)
        for name, (sources, run) in commands.items():
            for images, what in (("one", one), ("many", given.photos)):
                took, memory = command(sources, run, what)
                seconds.setdefault(f"{images}, {name}", []).append(took)
                megabytes.setdefault(f"{images}, {name}", []).append(memory)
    medians = ({name: statistics.median(values) for name, values in each.items()} for each in (seconds, megabytes))
    report(*medians, len(table), predictor.engine.name)


def alone(predictor: Predictor, table) -> tuple[float, float]:
    """Seconds for one image: decoding all of the table, and the network on some of it."""
    images, pixels = encoded(table, predictor.preprocessing), []
    began = time.perf_counter()
    with closing(stream(images, "decoding")) as chunks:
        for chunk in in_batches(chunks, predictor.engine.batch_images):
            if len(pixels) < BATCHES:
                pixels.append(chunk.pixels)
    decoding = (time.perf_counter() - began) / len(table)
    list(predictor.engine.run(iter(pixels[:1])))  # fills caches
    began = time.perf_counter()
    list(predictor.engine.run(iter(pixels)))
    return decoding, (time.perf_counter() - began) / int(np.sum([len(batch) for batch in pixels]))


def command(sources: Path, run: Path, photos: Path) -> tuple[float, float]:
    """Seconds from the command to its answer, and its largest resident memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["predict", run, photos, "--to", Path(folder) / "answers.csv", "--device", "cpu", "--quiet"]
        environment = {**os.environ, "PYTHONPATH": str(sources)}
        started = [sys.executable, "-c", STARTER, sys.executable, "-m", "loupe", *map(str, words)]
        done = subprocess.run(started, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        took, memory = json.loads(done.stdout)
        return took, memory


def networks(names: list[str], rounds: int, images: int) -> None:
    """Prints, for each network, the operations of an image and the speed of both engines."""
    print("| network | size | GFLOP | PyTorch images/s | OpenVINO images/s | ratio |\n|---|---|---|---|---|---|")
    keep_freed_memory()
    for name in names:
        spec = network(name, "none")
        ours = Preprocessing(size_px=OWN_PX.get(name, 32), load_px=OWN_PX.get(name, 32))
        prepared = native_preprocessing(spec) if isinstance(spec, BackboneSpec) else ours
        model = build(spec, prepared, ("a", "b"), seed=0).eval()
        with tempfile.TemporaryDirectory() as folder:
            engines = (
                TorchNetwork(model, Compute(torch.device("cpu"), "fp32")),
                OpenVinoNetwork(convert(model, spec, Path(folder)).files, "fp32"),
            )
        shape = (*prepared.load_size, prepared.channels)
        x_NHWC = np.random.default_rng(0).integers(0, 256, (images, *shape), np.uint8)
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds + 1):
            for engine, times in zip(engines, seconds, strict=True):
                began = time.perf_counter()
                list(engine.run(x_NHWC[row_B] for row_B in cut(np.arange(images), engine.batch_images)))
                times.append(time.perf_counter() - began)
        speeds = [images / statistics.median(times[1:]) for times in seconds]  # the first round fills caches
        cells = [name, str(prepared.size), f"{flop(model) / 1e9:.3g}", *(f"{speed:,.0f}" for speed in speeds)]
        print("|", " | ".join([*cells, f"{speeds[1] / speeds[0]:.2f}"]), "|")


def report(seconds: dict[str, float], megabytes: dict[str, float], images: int, engine: str) -> None:
    print(f"{images} images, {engine}\n\n| | images/s | seconds | MB |\n|---|---|---|---|")
    bound = max(seconds["decoding"], seconds["network"])
    rows = {"decoding": seconds["decoding"], "network": seconds["network"], "bound": bound}
    rows |= {name: value / images for name, value in seconds.items() if name.startswith("many")}
    for name, value in rows.items():
        memory = f"{megabytes[name]:,.0f}" if name in megabytes else ""
        print(f"| {name} | {1 / value:.1f} | {value * images:.1f} | {memory} |")
    for name, value in seconds.items():
        if name.startswith("one"):
            print(f"| {name} | | {value:.2f} | {megabytes[name]:,.0f} |")
    told = {"seconds": seconds, "megabytes": megabytes, "images": images, "commit": commit()}
    print(json.dumps({**told, "machine": machine(worker_count())}))


if __name__ == "__main__":
    main()
