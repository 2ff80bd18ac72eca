"""Images per second of Loupe beside a process at full load, and without it: by policy of waiting.

    python benchmarks/busy.py --rounds 5 --seconds 2
    python benchmarks/busy.py --works training-fp32 --policies loupe libgomp GOMP_SPINCOUNT=5000 OMP_WAIT_POLICY=passive

Each work (peers/busy_work.py) is a process of its own under each policy of waiting: `loupe` is what Loupe sets,
`libgomp` the 300,000 turns that libgomp spins by itself, `one-thread` Loupe's with a single thread, any other an
environment variable. The processes take turns in every round, each once in quiet and once beside a child that keeps one
core busy. A measurement during which other processes took more than 0.15 of a core is taken again.
With --keras-python an interpreter that has Keras (peers/keras_deep_cnn.py) takes its turn beside the load, too.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import numpy as np

from setting import commit, machine

HERE = Path(__file__).resolve().parent
WORKS = ("training-fp32", "training-bf16", "frozen", "head", "augmentation")
POLICIES = ("loupe", "libgomp", "one-thread")
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
QUIET_CORES = 0.15
LOAD = "while True: pass"


class Worker:
    """Process of one work under one policy, which measures when it is asked to."""

    def __init__(self, work: str, policy: str, threads: int) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        if policy == "libgomp":
            environment["GOMP_SPINCOUNT"] = "300000"
        elif policy not in POLICIES:
            name, _, value = policy.partition("=")
            environment[name] = value
        threads = 1 if policy == "one-thread" else threads
        command = [sys.executable, str(HERE / "peers" / "busy_work.py"), work, "--threads", str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._line()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()

    def images_per_second(self, seconds: float) -> float:
        assert self._process.stdin
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return float(json.loads(self._line())["images_per_second"])

    def processor_seconds(self) -> float:
        """Processor time of the worker so far; 0 where the system does not say."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            return 0.0

    def _line(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended with exit code {self._process.wait()}")
        return line


@contextmanager
def load(number: int, *, same_session: bool) -> Iterator[None]:
    """So many processes at full load. Linux divides the processor among sessions, and then among their threads."""
    command = [sys.executable, "-c", LOAD]
    children = [subprocess.Popen(command, start_new_session=not same_session) for _ in range(number)]
    time.sleep(0.3 * number)
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


def busy_seconds() -> float:
    """Processor time of the whole machine so far; 0 where the system does not say."""
    try:
        ticks = [int(text) for text in Path("/proc/stat").read_text(encoding="ascii").split("\n")[0].split()[1:9]]
    except OSError:
        return 0.0
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def undisturbed(worker: Worker, seconds: float, loads: int, tries: int) -> float:
    """Images per second while nothing else ran; after so many tries the last one, with a note."""
    for number in range(tries):
        all_before, own_before, began = busy_seconds(), worker.processor_seconds(), time.perf_counter()
        speed = worker.images_per_second(seconds)
        passed = time.perf_counter() - began
        used = (busy_seconds() - all_before - worker.processor_seconds() + own_before) / passed
        if used - loads <= QUIET_CORES:
            return speed
        time.sleep(min(2.0, seconds))
        print(f"disturbed ({used:.2f} cores), try {number + 1}", file=sys.stderr)
    return speed


def measure(work: str, given: argparse.Namespace) -> dict[tuple[str, int], list[float]]:
    """Images per second of a work in every round, by policy and number of loads."""
    speeds: dict[tuple[str, int], list[float]] = {(policy, loads): [] for policy in given.policies for loads in (0, 1)}
    with ExitStack() as stack:
        workers = {policy: stack.enter_context(Worker(work, policy, given.threads)) for policy in given.policies}
        for number in range(given.rounds):
            turns = list(workers.items())
            turns = turns[number % len(turns) :] + turns[: number % len(turns)]
            for loads in (0, 1):
                with load(loads, same_session=given.same_session):
                    for policy, worker in turns:
                        speeds[policy, loads].append(undisturbed(worker, given.seconds, loads, given.tries))
    return speeds


def keras(python: str, given: argparse.Namespace) -> dict[tuple[str, int], list[float]]:
    """Images per second of Keras in training deep-cnn with its augmentation, a process for each figure."""
    speeds: dict[tuple[str, int], list[float]] = {("keras", 0): [], ("keras", 1): []}
    with tempfile.TemporaryDirectory() as folder:
        pixels = Path(folder) / "pixels.npz"
        random = np.random.default_rng(0)
        np.savez(pixels, x=random.integers(0, 256, (8192, 32, 32, 3), dtype=np.uint8), y=np.arange(8192) % 10)
        command = [python, str(HERE / "peers" / "keras_deep_cnn.py"), str(pixels)]
        command += [f"--threads={given.threads}", "--warmup=3", "--steps=12"]
        for _ in range(given.rounds):
            for loads in (0, 1):
                with load(loads, same_session=given.same_session):
                    done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(f"Keras failed:\n{done.stderr[-2000:]}")
                speeds["keras", loads].append(float(json.loads(done.stdout.splitlines()[-1])["images_per_second"]))
    return speeds


def table(work: str, speeds: dict[tuple[str, int], list[float]]) -> str:
    """Rows of one work: medians, with the range beside the load, and the share of the quiet speed that is kept."""
    lines = []
    for policy in dict.fromkeys(policy for policy, _ in speeds):
        quiet, busy = speeds[policy, 0], speeds[policy, 1]
        kept = statistics.median(busy) / statistics.median(quiet)
        ranges = [f"{min(values):,.0f} to {max(values):,.0f}" for values in (quiet, busy)]
        lines.append(
            f"| {work} | {policy} | {statistics.median(quiet):,.0f} ({ranges[0]}) "
            f"| {statistics.median(busy):,.0f} ({ranges[1]}) | {kept:.2f} |"
        )
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--policies", nargs="+", default=list(POLICIES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--tries", type=int, default=5, help="of a measurement that something disturbs")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--same-session", action="store_true", help="start the load in the session of the benchmark")
    parser.add_argument("--keras-python", help="an interpreter that has Keras; left out without it")
    given = parser.parse_args(words)
    print("| work | policy | quiet, images/s | beside one busy process | kept |\n|---|---|---:|---:|---:|", flush=True)
    for work in given.works:
        print(table(work, measure(work, given)), flush=True)
    if given.keras_python:
        print(table("training", keras(given.keras_python, given)), flush=True)
    print(f"\nCommit {commit()}; {machine(given.threads)}")


if __name__ == "__main__":
    main()
