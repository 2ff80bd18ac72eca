"""One check of a machine with an NVIDIA GPU, meant for at most four minutes: does Loupe work on it, and how fast is it?

    python benchmarks/gpu_check.py --write results

It runs the tests marked `gpu`, then times training and prediction beside plain PyTorch loops, which take turns with it:

* deep-cnn: steps of training with the recipe's augmentation, batch 128; PyTorch has channels-last, autocast, fused Adam
* fast: steps of the recipe's last stage, whose images have their full size, batch 100; PyTorch has the published
  record's network and step (peers/torch_fast_cnn.py) at the same sizes, though its own batch is 2,000
* features: images through the frozen network, and their features back on the CPU, in batches of 32
* last-block: steps on outputs of the frozen blocks that are cached; PyTorch runs the frozen blocks in every step
* finetune: steps of the whole network; PyTorch does not augment here, nor for last-block

The images are scikit-learn's digits, enlarged, or CIFAR-10 where $LOUPE_DATA has it; backbones have random weights.
Exit code 0: all tests pass; 1: one fails; 3: PyTorch finds no CUDA device. With --device cpu --toy it runs anywhere,
and its figures mean nothing.
"""

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch

import gpu_plain
from gpu_jobs import JOBS, Job, Setting
from loupe.devices import choose_device, gpu_name, keep_freed_memory, precisions
from setting import commit, machine

HERE = Path(__file__).resolve().parent
NO_CUDA = 3
TEST_SECONDS = 100


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
            job = Job(name, setting, Path(folder))
            contenders: dict[str, Callable[[], float]] = {
                "Loupe": job.measure,
                "PyTorch": partial(gpu_plain.measure, job),
            }
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
    parser.add_argument("--seconds", type=float, default=2.5, help="of each of the measurements; default 2.5")
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
