"""Steps of the benchmark of growth: their images, times and memory, and the page that shows them."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Step:
    """One step: its images, its time by the clock and of the processor, and the most memory that was held in it."""

    name: str
    images: int
    seconds: float
    processor_seconds: float
    peak_bytes: int


def anonymous_bytes() -> int:
    """Memory of this process that is not a mapped file; 0 where it is unknown."""
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)
    return 0


class Steps:
    """Steps as they are done; the time of a step within another is not counted twice."""

    def __init__(self) -> None:
        self.done: list[Step] = []
        self._inner = [np.zeros(2)]
        self._peak = 0
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while True:
            self._peak = max(self._peak, anonymous_bytes())
            time.sleep(0.02)

    @contextmanager
    def step(self, name: str, images: int) -> Iterator[None]:
        self._peak, began = anonymous_bytes(), self._clocks()
        self._inner.append(np.zeros(2))
        yield
        passed = self._clocks() - began
        seconds, processor_seconds = (passed - self._inner.pop()).tolist()
        self._inner[-1] += passed
        self.done.append(Step(name, images, seconds, processor_seconds, max(self._peak, anonymous_bytes())))
        print(f"{name:<24}{seconds:9.2f} s{1e6 * seconds / images:12,.1f} µs an image", file=sys.stderr)

    @staticmethod
    def _clocks() -> np.ndarray:
        times = os.times()  # also of child processes that have ended
        return np.array([time.perf_counter(), time.process_time() + times.children_user + times.children_system])

    def wrap(self, patches: ExitStack, owner: type, method: str, name: str, images: int) -> None:
        """Make a step of a method, until the patches are undone."""
        original = getattr(owner, method)

        def timed(*given: Any, **named: Any) -> Any:
            with self.step(name, images):
                return original(*given, **named)

        setattr(owner, method, timed)
        patches.callback(setattr, owner, method, original)


def fastest(*steps: Step) -> Step:
    """The same step of several rounds: the least times, as other work only adds to them, and the largest memory."""
    return replace(
        steps[0],
        seconds=min(step.seconds for step in steps),
        processor_seconds=min(step.processor_seconds for step in steps),
        peak_bytes=max(step.peak_bytes for step in steps),
    )


def markdown(result: dict[str, Any]) -> str:
    """The page: one table, then what was run and on what."""
    sizes, forms = result["sizes"], list(result["steps"])
    of = {
        (form, row["name"], size): row for form in forms for size in sizes for row in result["steps"][form][str(size)]
    }
    names = [row["name"] for row in result["steps"][forms[0]][str(sizes[0])]]
    heads = [f"{form}, {size:,}" for form in forms for size in sizes]
    lines = [
        "# Growth",
        "",
        "Microseconds an image; × is the processor time of an image at the largest size against the smallest.",
        "",
    ]
    columns = [f"{head} | × | MiB" if head.endswith(f"{sizes[-1]:,}") else head for head in heads]
    lines += [f"| | {' | '.join(columns)} |", "|---|" + "---:|" * sum(1 + 2 * ("×" in column) for column in columns)]
    for name in names:
        cells = []
        for form in forms:
            rows = [of[form, name, size] for size in sizes]
            cells += [f"{1e6 * row['seconds'] / row['images']:,.1f}" for row in rows]
            first, *_, last = [row["processor_seconds"] / row["images"] for row in (rows[0], *rows)]
            cells += [f"{last / first:.2f}" if first else "–", f"{rows[-1]['peak_bytes'] / 2**20:,.0f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    place = result["machine"]
    lines += [
        "",
        f"* Command: `{result['command']}`",
        f"* Commit: {result['commit']}; {result['date']}",
        f"* Machine: {place['processor']}, {place['cores']} cores, threads: {place['threads']}, {place['system']}",
        f"* The fastest of {result['rounds']} rounds",
        "* MiB: the most anonymous memory in the step, at the largest size; mapped files do not count",
        "",
    ]
    return "\n".join(lines)
