"""What every peer does alike: its arguments, its clock, its memory, and the one line of JSON that it prints.

Only the standard library and NumPy: the peers run in environments that have nothing else in common.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

BATCH_IMAGES = 128


def arguments(description: str | None, **extra: tuple[str, ...]) -> argparse.Namespace:
    """The command line of a peer; `extra` maps a further option to its choices, the first being the default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pixels", type=Path, help=".npz with x (uint8 [N, 32, 32, 3]) and y (int64 [N])")
    parser.add_argument("--mode", choices=("plain", "augmented"), default="augmented")
    parser.add_argument("--warmup", type=int, default=5, help="steps that are not timed")
    parser.add_argument("--steps", type=int, default=25, help="steps that are")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    for name, choices in extra.items():
        parser.add_argument(f"--{name}", choices=choices, default=choices[0])
    return parser.parse_args()


class Clock:
    """Marks the end of each step; the time between two marks is what one step takes, its images included."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def mark(self) -> None:
        self.marks.append(time.perf_counter())

    def speeds(self, warmup: int) -> dict[str, float]:
        """Images per second over all steps after the warm-up, in the median step, and in the fastest."""
        marks = self.marks[warmup:]
        steps = [after - before for before, after in itertools.pairwise(marks)]
        return {
            "images_per_second": BATCH_IMAGES * len(steps) / (marks[-1] - marks[0]),
            "median_step": BATCH_IMAGES / statistics.median(steps),
            "best_step": BATCH_IMAGES / min(steps),
        }


def peak_mib() -> float:
    """The most memory that this process has held, in MiB.

    From /proc where there is one: getrusage also counts what the parent held before this program began.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if platform.system() == "Darwin" else 1024)


def report(**values: Any) -> None:
    """Prints the outcome as the last line of standard output."""
    print(json.dumps({**values, "peak_mib": peak_mib()}), flush=True)
