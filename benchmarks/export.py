"""Exported models of runs: size, time to load, speed and accuracy lost, beside the same network exported alone.

    python benchmarks/export.py RUN... --rounds 5 --write results/export.md

Each run is exported to every target, and compared with the run on its validation images, or on the first `--compared`
of them; a lower precision may lose any accuracy here. Then the engines take turns: one decoded photograph at a time,
from its full size on, and prepared images in batches of 32. `torch.onnx.export` is the network alone in ONNX Runtime,
as other programs export it: Pillow resizes, and NumPy normalises. Medians of the rounds, on so many threads as
OMP_NUM_THREADS says. At last, an image of 12 megapixels is resized by Pillow and by the exported resizing. The last
line is the same as JSON.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image
from torch import Tensor, nn

from loupe.config.size import Size
from loupe.data.pixels.decode import resized
from loupe.export.export import in_fp32, reference_of, samples_of
from loupe.export.job import Job, Options
from loupe.export.parity import compare, in_colour
from loupe.export.program import exported
from loupe.export.resize import Resizing
from loupe.export.resize_in_fp32 import resize_in_fp32
from loupe.export.targets import TARGETS
from loupe.models.openvino_import import core
from loupe.models.openvino_network import threads
from loupe.rundir import open_run
from loupe.runs.run import Run
from setting import commit, machine

KINDS = {
    "onnx": ("onnx", "fp32"),
    "onnx, fp16": ("onnx", "fp16"),
    "onnx, int8": ("onnx", "int8"),
    "openvino": ("openvino", "fp32"),
    "torch": ("torch", "fp32"),
}
ALONE = "torch.onnx.export, Pillow resizes"
BATCH_IMAGES = 32
HEAD = "| export | MB | load, s | one image, ms | 32 prepared, images/s | accuracy lost, points |\n" + 6 * "|---" + "|"


class Alone:
    """Network alone, on prepared tensors."""

    def __init__(self, run: Run, folder: Path) -> None:
        model, self.own = in_fp32(run), run.preprocessing
        file = folder / "alone.onnx"
        shape = (2, self.own.channels, self.own.size.height_px, self.own.size.width_px)
        write(model, (torch.zeros(shape),), ({0: torch.export.Dim.DYNAMIC},), file)
        began = time.perf_counter()
        self.session = session(file)
        self.load_seconds = time.perf_counter() - began
        self.megabytes = file.stat().st_size / 1e6
        self.scale = np.float32(1 / (255 * np.array(self.own.std[: self.own.channels])))
        self.offset = np.float32(-np.array(self.own.mean) / np.array(self.own.std))[: self.own.channels]

    def run(self, images: np.ndarray) -> None:
        own, size = self.own, self.own.size
        if images.shape[1:3] != tuple(own.load_size):
            image = Image.fromarray(images[0]).convert("RGB" if own.channels == 3 else "L")
            load, kind = own.load_size, own.interpolation
            images = np.asarray(resized(image, load, own.resize, kind, own.pixel_definition))[None]
        images = images[..., : own.channels] if images.ndim == 4 else images[..., None]
        top, left = ((a - b) // 2 for a, b in zip(own.load_size, size, strict=True))
        x_NHWC = images[:, top : top + size.height_px, left : left + size.width_px] * self.scale + self.offset
        self.session.run(None, {self.session.get_inputs()[0].name: x_NHWC.transpose(0, 3, 1, 2)})


class Resize(nn.Module):
    """Resizing alone, as it is exported."""

    def __init__(self, resizing: Resizing, interpolation: str) -> None:
        super().__init__()
        self.resizing, self.interpolation = resizing, interpolation

    def forward(self, images: Tensor) -> Tensor:
        return self.resizing(images, Size(224, 224), "crop", self.interpolation).to(torch.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=64, help="photographs, and prepared images, in a round")
    parser.add_argument("--compared", type=int, help="validation images for the accuracy; all without it")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=tuple(KINDS))
    parser.add_argument("--filters", nargs="+", default=("bilinear", "bicubic"), help="of the resizing alone")
    parser.add_argument("--megapixels", type=float, default=12.0)
    parser.add_argument("--write", type=Path, help="file for the tables")
    given = parser.parse_args()
    found = {path.name: measured(path, given.kinds, given.rounds, given.images, given.compared) for path in given.runs}
    resizing = resizing_times(given.megapixels, given.filters, given.rounds)
    lines = [table for name, rows in found.items() for table in (f"## {name}", rows_of(rows))]
    lines += [f"## Resizing {given.megapixels:g} megapixels to 224 x 224 px", resizing_rows(resizing)]
    told = {"runs": found, "resizing": resizing, "commit": commit(), "machine": machine(threads())}
    setting = f"Commit {told['commit']}, {json.dumps(told['machine'])}"
    if given.write:
        command = f"python benchmarks/export.py {' '.join(found)} --rounds {given.rounds} --images {given.images}"
        given.write.write_text("\n\n".join(["# Exported models", f"`{command}`. {setting}.", *lines]) + "\n")
    print("\n\n".join(lines))
    print(json.dumps(told))


def measured(
    path: Path, kinds: Sequence[str], rounds: int, images: int, most: int | None
) -> dict[str, dict[str, float | str]]:
    """Figures of each export of one run."""
    run = Run(open_run(path), device="cpu", quiet=True)
    model, samples_N = in_fp32(run), samples_of(run, None)
    compared = replace(samples_N, row_N=samples_N.row_N[:most])
    samples = next(samples_N.chunks())[:images]
    photographs = [sample.image_HWC[None] for sample in samples]
    prepared = np.stack([in_colour(samples[number % len(samples)].pixels_HWC) for number in range(BATCH_IMAGES)])
    rows: dict[str, dict[str, float | str]] = {}
    engines: dict[str, Callable[[np.ndarray], object]] = {}
    with tempfile.TemporaryDirectory() as place:
        for name in kinds:
            target, precision = KINDS[name]
            folder = Path(place) / name
            folder.mkdir()
            options = Options(precision=precision, max_loss_points=100.0)
            written = TARGETS[target](Job(run, model, folder, options))
            runner = written.gates[0].runner
            report = compare(target, written.gates[:1], compared, reference_of(model), "PyTorch, fp32").engines[0]
            began = time.perf_counter()
            type(runner)(folder / written.model)
            load_seconds = time.perf_counter() - began
            engines[name] = runner.run
            rows[name] = {
                "megabytes": sum(file.stat().st_size for file in folder.iterdir()) / 1e6,
                "load": load_seconds,
                "lost": lost(report),
                "difference": max(report.largest_difference, report.largest_difference_in_batches),
            }
        alone = Alone(run, Path(place))
        engines[ALONE] = alone.run
        rows[ALONE] = {"megabytes": alone.megabytes, "load": alone.load_seconds, "lost": ""}
        one = in_turns(
            {name: lambda engine=engine: [engine(x) for x in photographs] for name, engine in engines.items()}, rounds
        )
        many = in_turns({name: lambda engine=engine: engine(prepared) for name, engine in engines.items()}, rounds)
    for name, row in rows.items():
        row["one_ms"], row["many_images_per_s"] = 1e3 * one[name] / len(photographs), BATCH_IMAGES / many[name]
    return rows


def lost(report) -> str:
    if report.loss is None:
        return "0, every class the same"
    return f"{100 * report.loss.value:.2f} ({100 * report.loss.low:.2f} to {100 * report.loss.high:.2f})"


def in_turns(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each work; all take their turn in a round, and one round before fills caches."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def resizing_times(megapixels: float, filters: Sequence[str], rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds of each way to resize, by the filter."""
    side = round((megapixels * 1e6 / 12) ** 0.5)
    pixels = np.random.default_rng(0).integers(0, 256, (3 * side, 4 * side, 3), dtype=np.uint8)
    image, batch = Image.fromarray(pixels), pixels[None]
    size = Size(224, 224)
    found = {}
    for kind in filters:
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / "resize.onnx"
            write(exported(Resize(resize_in_fp32, kind)), None, None, file)
            runtime = session(file)
            options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads()}
            compiled = core().compile_model(core().read_model(file), "CPU", options)
            found[kind] = in_turns(
                {
                    "Pillow": lambda kind=kind: resized(image, size, "crop", kind, 2),
                    "ONNX Runtime": lambda runtime=runtime: runtime.run(None, {runtime.get_inputs()[0].name: batch}),
                    "OpenVINO": lambda compiled=compiled: compiled({0: batch}),
                },
                rounds,
            )
    return found


def write(program, arguments, shapes, file: Path) -> None:
    torch.onnx.export(
        program,
        arguments,
        file,
        dynamo=True,
        opset_version=18,
        external_data=False,
        dynamic_shapes=shapes,
        verbose=False,
    )


def session(file: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def rows_of(rows: dict[str, dict[str, float | str]]) -> str:
    cells = []
    for name, row in rows.items():
        figures = f"{row['megabytes']:.1f} | {row['load']:.2f} | {row['one_ms']:.1f} | {row['many_images_per_s']:,.0f}"
        cells.append(f"| {name} | {figures} | {row['lost']} |")
    return "\n".join([HEAD, *cells])


def resizing_rows(found: dict[str, dict[str, float]]) -> str:
    names = list(next(iter(found.values())))
    lines = [f"| ms | {' | '.join(names)} | ONNX Runtime / Pillow |", "|---" * (len(names) + 2) + "|"]
    for kind, seconds in found.items():
        ratio = seconds["ONNX Runtime"] / seconds["Pillow"]
        lines.append(f"| {kind} | {' | '.join(f'{1e3 * seconds[name]:.0f}' for name in names)} | {ratio:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
