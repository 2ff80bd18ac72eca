"""One check of a machine with an NVIDIA GPU, meant for at most four minutes: does Loupe work on it, and how fast is it?

    python benchmarks/gpu_check.py --write results

It runs the tests marked `gpu`, then times training and prediction beside plain PyTorch loops, which take turns with it:

* deep-cnn: steps of training with the recipe's augmentation, batch 128; PyTorch has channels-last, autocast, fused Adam
* features: images through the frozen network, and their features back on the CPU, in batches of 32
* last-block: steps on outputs of the frozen blocks that are cached; PyTorch runs the frozen blocks in every step
* finetune: steps of the whole network; PyTorch does not augment here, nor for last-block

The images are scikit-learn's digits, enlarged, or CIFAR-10 where $LOUPE_DATA has it; backbones have random weights.
Exit code 0: all tests pass; 1: one fails; 3: PyTorch finds no CUDA device. With --device cpu --toy it runs anywhere,
and its figures mean nothing.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from loupe.augment.pipeline import evaluation_view
from loupe.config.resolved import ResolvedRecipe, ResolvedStage
from loupe.data.dataset import Dataset, open_dataset
from loupe.data.pixels.batches import Batch, BatchLoader
from loupe.data.pixels.prepare import load_images
from loupe.devices import DTYPES, Compute, StopSignal, choose_device, gpu_name, keep_freed_memory, precisions
from loupe.models.build import build
from loupe.models.classifier import Classifier
from loupe.models.engine import Engines, TorchEngine
from loupe.recipes.resolve import resolve
from loupe.training.activation_loader import ActivationLoader
from loupe.training.checkpoint import Checkpoints
from loupe.training.frozen import PASS_BATCH, trunk_key
from loupe.training.loop import Trainer
from loupe.training.stage_data import StageData, StageDataBuilder
from setting import commit, machine

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE / "peers"))
import torch_deep_cnn as plain  # noqa: E402

NO_CUDA = 3
JOBS = ("deep-cnn", "features", "last-block", "finetune")
NOT_MEASURED = {"val_loss": None, "val_accuracy": None, "val_macro_f1": None}
TEST_SECONDS = 100


@dataclass(frozen=True)
class Setting:
    """Size of the measurements.

    Attributes:
        images: number of images of a small network, and of a backbone.
        size_px: side of the images of a backbone.
        seconds: time of one measurement, after `warmup` steps.
        rounds: number of measurements of each contender, taking turns.
    """

    device: torch.device
    precision: str
    backbone: str
    images: tuple[int, int]
    size_px: int
    seconds: float
    warmup: int
    rounds: int

    @property
    def compute(self) -> Compute:
        return Compute(self.device, self.precision)


def pixels(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of 32 px with their classes: of CIFAR-10, or scikit-learn's digits in colours that tell them apart."""
    folder = Path(os.environ.get("LOUPE_DATA", HERE.parents[1] / "shared" / "data")) / "cifar10"
    if count > 1000 and folder.is_dir():
        table = open_dataset(folder).table
        rows = np.arange(min(count, len(table)))
        preprocessing = resolved("deep-cnn", Dataset(None, table)).preprocessing
        opened = load_images(Dataset(None, table.select(rows)), preprocessing, cache=None)
        return opened.store.read(rows), table.labels[rows]
    bunch = load_digits()
    rows = np.arange(count) % len(bunch.images)
    grey_NHW = (bunch.images[rows] * 15.9375).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    tint_N113 = np.random.default_rng(0).integers(96, 256, (count, 1, 1, 3))
    return (grey_NHW[..., None] * tint_N113 // 255).astype(np.uint8), bunch.target[rows]


def resolved(name: str, dataset: Dataset, **settings: Any) -> ResolvedRecipe:
    flags = dict.fromkeys(("epochs", "batch_size", "lr", "seed", "precision"))
    return resolve(name, dataset, model=None, flags=flags, extra=settings)


class Stopwatch:
    """Images per second between the end of the warm-up and the end of the measurement, with the device waited for."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.steps = self.images = 0
        self.began = self.seconds = 0.0

    def is_over(self, images: int) -> bool:
        """Count a step of so many images; true once the time is over."""
        if self.steps == self.setting.warmup:
            self.setting.compute.synchronize()
            self.began, self.images = time.perf_counter(), 0
        self.steps += 1
        if self.steps > self.setting.warmup + 1 and time.perf_counter() - self.began >= self.setting.seconds:
            self.setting.compute.synchronize()
            self.seconds = time.perf_counter() - self.began
            return True
        self.images += images
        return False

    @property
    def speed(self) -> float:
        return self.images / self.seconds


@dataclass(frozen=True)
class TimedLoader:
    """Loader that asks the training to stop once its time is over."""

    loader: BatchLoader | ActivationLoader
    watch: Stopwatch
    stop: StopSignal

    @property
    def device(self) -> torch.device:
        return self.loader.device

    def at(self, epoch: int) -> "TimedLoader":
        return TimedLoader(self.loader.at(epoch), self.watch, self.stop)

    def batches(self, order: np.ndarray, batch_size: int, *, first: int = 0) -> Iterator[Batch]:
        for batch in self.loader.batches(order, batch_size, first=first):
            if self.watch.is_over(len(batch)):
                self.stop.request()
            yield batch


@dataclass
class Work:
    """Images, recipe and network of one job; `measure` trains or predicts as Loupe does."""

    name: str
    setting: Setting
    folder: Path

    def __post_init__(self) -> None:
        small, setting = self.name == "deep-cnn", self.setting
        x_NHWC, y_N = pixels(setting.images[0] if small else setting.images[1])
        dataset = open_dataset((x_NHWC, y_N), announce=False)
        side = {} if small else {"input.size_px": setting.size_px, "input.load_px": setting.size_px}
        backbone = {} if small else {"model.backbone": setting.backbone, "model.weights": "none"}
        recipe = resolved(self.name, dataset, **backbone, **side)
        if recipe.input.wants_statistics:
            recipe = recipe.normalised((0.5,) * 3, (0.25,) * 3)
        self.recipe, self.stage = recipe, recipe.stages[-1]
        self.images = load_images(dataset, recipe.preprocessing, cache=None)
        self.loader = BatchLoader(self.images.store, self.images.table.labels, setting.device)
        self.rows_N = np.arange(len(self.images.table))
        self.x_NHWC = torch.from_numpy(self.images.store.read(self.rows_N)).to(setting.device)
        self.y_N = torch.tensor(self.images.table.labels, device=setting.device)

    def network(self) -> Classifier:
        model = build(self.recipe.model, self.recipe.preprocessing, self.images.table.classes, 0)
        return model.to(self.setting.device)

    def measure(self) -> float:
        return self._forward() if self.stage.is_solved else self._train(self.stage)

    def _forward(self) -> float:
        blocks, watch = self.network().eval().trunk, Stopwatch(self.setting)

        def views() -> Iterator[Tensor]:
            while True:
                for batch in self.loader.batches(self.rows_N, PASS_BATCH):
                    if watch.is_over(len(batch)):
                        return
                    yield evaluation_view(batch.x_BCHW, self.recipe.preprocessing)

        for _ in TorchEngine(blocks, self.setting.compute).run(views()):
            pass
        return watch.speed

    def _train(self, stage: ResolvedStage) -> float:
        """`Trainer.fit`, as `loupe train` calls it, from the first step of the stage on."""
        model, watch, stop = self.network(), Stopwatch(self.setting), StopSignal()
        compute, views = self.setting.compute, stage.views if stage.views == "fresh" else 1
        builder = StageDataBuilder(
            model=model,
            network=trunk_key(self.recipe.model),
            loader=self.loader,
            content=self.images.content,
            train_N=self.rows_N,
            test_N=self.rows_N[:0],
            seed=0,
            folder=self.folder / "frozen",
            compute=compute,
            frozen_compute=compute,
            stop=stop,
            engines=Engines(),
        )

        def prepared(stage: ResolvedStage, first_epoch: int, last: bool) -> StageData:
            data = builder.of(stage, first_epoch, last)
            return StageData(TimedLoader(data.loader, watch, stop), data.validation, data.augmenter, data.first)

        with tempfile.TemporaryDirectory() as folder:
            Trainer(
                model,
                stages=[stage.model_copy(update={"epochs": 10_000, "views": views})],
                prepare=prepared,
                train_N=self.rows_N,
                validate=lambda network, data: NOT_MEASURED,
                checkpoints=Checkpoints(Path(folder)),
                on_epoch=lambda history: None,
                compute=compute,
                class_weights_K=None,
                monitor=self.recipe.monitor,
                keep_best=False,
                stop=stop,
            ).fit()
        return watch.speed

    def measure_plain(self) -> float:
        """The same in a plain loop over pixels that are on the device."""
        network, recipe, device = self._plain_network(), self.recipe, self.setting.device
        levels = (recipe.preprocessing.mean, recipe.preprocessing.std)
        mean, std = (255 * torch.tensor(values, device=device).view(1, 3, 1, 1) for values in levels)
        reduced = self.setting.precision != "fp32"
        autocast = partial(torch.autocast, device.type, DTYPES[self.setting.precision])
        trained = [weight for weight in network.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, 1e-4, fused=True) if trained else None
        watch, size = Stopwatch(self.setting), PASS_BATCH if self.stage.is_solved else self.stage.batch_size
        while True:
            for rows_B in torch.randperm(len(self.y_N), device=device).split(size):
                if watch.is_over(len(rows_B)):
                    return watch.speed
                x_BCHW = self.x_NHWC.index_select(0, rows_B).permute(0, 3, 1, 2).float().sub_(mean).div_(std)
                if self.name == "deep-cnn":
                    x_BCHW = plain.augment(x_BCHW).contiguous(memory_format=torch.channels_last)
                with autocast() if reduced else nullcontext(), nullcontext() if optimizer else torch.inference_mode():
                    outputs = network(x_BCHW)
                if optimizer is None:
                    outputs.float().cpu()
                    continue
                loss = F.cross_entropy(outputs.float(), self.y_N[rows_B])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()

    def _plain_network(self) -> nn.Module:
        if self.name == "deep-cnn":
            network = plain.network().train()
        elif self.name == "features":
            network = timm.create_model(self.setting.backbone, num_classes=0).eval().requires_grad_(False)
        else:
            network = timm.create_model(self.setting.backbone, num_classes=len(self.images.table.classes)).eval()
            if self.name == "last-block":
                network.requires_grad_(False)
                for part in (network.blocks[-1], network.get_classifier()):
                    part.requires_grad_(True)
        return network.to(self.setting.device).to(memory_format=torch.channels_last)


def run_tests() -> dict[str, int]:
    """Numbers of the tests marked `gpu` by outcome."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "tests/cuda"]
    try:
        done = subprocess.run(
            command, cwd=HERE.parent, capture_output=True, text=True, timeout=TEST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        print(f"the tests took more than {TEST_SECONDS} s", file=sys.stderr)
        return {"failed": 1}
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
    found = {name: int(count) for count, name in re.findall(r"(\d+) (passed|failed|errors?|skipped)", last)}
    if done.returncode not in (0, 5):
        print(done.stdout[-6000:] + done.stderr[-2000:], file=sys.stderr)
        found.setdefault("failed", 1)
    return found


def measured(setting: Setting) -> list[dict[str, Any]]:
    """Medians of both contenders for each job, which take turns."""
    rows = []
    for name in JOBS:
        speeds: dict[str, list[float]] = {"Loupe": [], "PyTorch": []}
        if setting.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with tempfile.TemporaryDirectory() as folder:
            work = Work(name, setting, Path(folder))
            contenders: dict[str, Callable[[], float]] = {"Loupe": work.measure, "PyTorch": work.measure_plain}
            for number in range(setting.rounds):
                for contender in sorted(contenders, reverse=number % 2 == 1):
                    speeds[contender].append(contenders[contender]())
                    print(f"{name:<12}{contender:<9}{speeds[contender][-1]:12,.0f} images/s", file=sys.stderr)
        ratios = [mine / theirs for mine, theirs in zip(speeds["Loupe"], speeds["PyTorch"], strict=True)]
        peak = torch.cuda.max_memory_allocated() / 2**30 if setting.device.type == "cuda" else None
        medians = {contender: statistics.median(values) for contender, values in speeds.items()}
        rows.append({"job": name, **medians, "ratio": statistics.median(ratios), "peak_gib": peak})
    return rows


def markdown(result: dict[str, Any]) -> str:
    """The page: one table, then what was run and on what."""
    tests = ", ".join(f"{count} {name}" for name, count in result["tests"].items()) or "none ran"
    lines = ["# Check of a GPU", "", f"Tests marked `gpu`: {tests}.", ""]
    lines += ["| | Loupe, images/s | PyTorch, images/s | ratio | peak GPU memory |", "|---|---:|---:|---:|---:|"]
    for row in result["rows"]:
        peak = "–" if row["peak_gib"] is None else f"{row['peak_gib']:.1f} GiB"
        lines.append(f"| {row['job']} | {row['Loupe']:,.0f} | {row['PyTorch']:,.0f} | {row['ratio']:.2f} | {peak} |")
    place = result["machine"]
    lines += [
        "",
        f"* Command: `{result['command']}`, {result['seconds']:.0f} s",
        f"* Commit: {result['commit']}; {result['date']}",
        f"* Machine: {result['gpu'] or 'no GPU'}; {place['processor']}, {place['cores']} cores, {place['system']}",
        f"* Versions: Python {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"timm {timm.__version__}",
        f"* Backbone {result['backbone']} at {result['size_px']} px",
        f"* {result['precision']}; medians of {result['rounds']} rounds, taking turns",
        "",
    ]
    return "\n".join(lines)


def setting_of(given: argparse.Namespace) -> Setting:
    device = choose_device(given.device)
    if given.toy:
        return Setting(device, "fp32", "test_efficientnet", (300, 64), 32, 0.05, 1, 1)
    precision = precisions(device)[-1]
    return Setting(device, precision, "tf_efficientnet_lite0", (20_000, 2_000), 224, given.seconds, 10, given.rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true", help="seconds, at a size whose figures mean nothing")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each of the measurements; default 3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write gpu_check.md and .json here")
    given = parser.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device: PyTorch finds none. `loupe doctor` says why.", file=sys.stderr)
        raise SystemExit(NO_CUDA)
    began, setting = time.perf_counter(), setting_of(given)
    keep_freed_memory()
    tests, rows = run_tests(), measured(setting)
    result = {
        "command": f"python benchmarks/gpu_check.py --seconds {given.seconds:g} --rounds {given.rounds}",
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(torch.get_num_threads()),
        "gpu": gpu_name(setting.device),
        "backbone": setting.backbone,
        "size_px": setting.size_px,
        "precision": setting.precision,
        "rounds": setting.rounds,
        "tests": tests,
        "rows": rows,
        "seconds": time.perf_counter() - began,
    }
    page = markdown(result)
    print(page)
    if given.write:
        given.write.mkdir(parents=True, exist_ok=True)
        (given.write / "gpu_check.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        (given.write / "gpu_check.md").write_text(page, encoding="utf-8")
    if {"failed", "error", "errors"} & tests.keys():
        raise SystemExit(1)


if __name__ == "__main__":
    main()
