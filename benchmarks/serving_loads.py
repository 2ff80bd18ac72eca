"""Measurements of a running server for `serving.py`: capacity, latency, overload and soak, as plain values."""

import itertools
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from busy import QUIET_CORES, busy_seconds
from load import HOST, Answer, Load, closed_loop, constant, open_loop, percentile_ms, poisson
from servers import Server, Usage, usage

T = TypeVar("T")
SHARE = 0.7  # of the capacity, at which latency is measured
OVERLOAD = 5  # times the capacity
ALONE_PAUSE_SECONDS = 0.02
PROBES_PER_SECOND = 20.0
RECOVERED_PROBES = 10
PROBED = 0.6  # time of single requests after an overload, as a share of its length
SETTLE_SECONDS = 2.0  # until connections that ended are closed on the other side as well
DAMAGED_EVERY = 50
FILLED = 6  # times the rate of a soak, at which the queue fills
INTERRUPTED = 5  # uploads that end halfway, in each part of a soak


@dataclass(frozen=True)
class Latency:
    """Percentiles of an open loop at a rate, in milliseconds, and the requests without an answer of status 200."""

    per_second: float
    median_ms: float
    p99_ms: float
    largest_ms: float
    requests: int
    failed: int
    late_ms: float  # 99th percentile of the time after the planned one at which requests were sent
    sender_share: float


def whole(load: Load, what: str) -> Load:
    """The load, all of whose requests must have been answered."""
    if failed := [answer for answer in load.answers if answer.status != 200]:
        raise SystemExit(f"{what}: {len(failed)} of {len(load.answers)} failed: {failed[0].status} {failed[0].body!r}")
    return load


def undisturbed(server: Server, work: Callable[[], T], tries: int) -> tuple[T, float]:
    """Outcome of a measurement, and the cores that other processes took; the quietest of so many tries."""
    outcomes: list[tuple[float, T]] = []
    for _ in range(tries):
        before, began = _processor_seconds(server), time.perf_counter()
        found = work()
        passed = time.perf_counter() - began
        used = [after - earlier for after, earlier in zip(_processor_seconds(server), before, strict=True)]
        outcomes.append(((used[0] - used[1] - used[2]) / passed, found))
        if outcomes[-1][0] <= QUIET_CORES:
            break
        time.sleep(min(1.0, passed))
    others, found = min(outcomes, key=lambda outcome: outcome[0])
    return found, others


def _processor_seconds(server: Server) -> tuple[float, float, float]:
    """Processor time so far of the machine, of the server with its children, and of this process."""
    return busy_seconds(), usage(server.pid).processor_seconds, time.process_time()


def warm_up(server: Server, requests: Sequence[bytes], connections: int, seconds: float) -> None:
    """Load that fills caches, and from which adaptive batching learns."""
    closed_loop(server.port, itertools.cycle(requests), connections, seconds)


def capacity(server: Server, requests: Sequence[bytes], connections: int, seconds: float) -> Load:
    """Closed loop, in which every connection always waits for an answer. Refusals count as failed, not as answered."""
    load = closed_loop(server.port, itertools.cycle(requests), connections, seconds)
    if not load.of_status(200):
        raise SystemExit(f"{server.contender.name}: {load.answers[0].status} {load.answers[0].body!r}")
    return load


def alone_ms(server: Server, requests: Sequence[bytes], images: int) -> tuple[float, float]:
    """Median and 99th percentile of the time of a single image on the idle server, in milliseconds."""
    answers: list[Answer] = []
    for request in itertools.islice(itertools.cycle(requests), images):
        answers += whole(closed_loop(server.port, [request], 1), server.contender.name).answers
        time.sleep(ALONE_PAUSE_SECONDS)
    return percentile_ms(answers, 50), percentile_ms(answers, 99)


def latency(server: Server, requests: Sequence[bytes], times: Sequence[float], connections: int) -> Latency:
    """Latency of an open loop, from the planned time of each request."""
    load = open_loop(server.port, itertools.cycle(requests), times, connections)
    answered = load.of_status(200)
    late = sorted(1e3 * (answer.sent - answer.planned) for answer in load.answers)
    return Latency(
        per_second=len(times) / max(times[-1], 1e-3),
        median_ms=percentile_ms(answered, 50),
        p99_ms=percentile_ms(answered, 99),
        largest_ms=percentile_ms(answered, 100),
        requests=len(load.answers),
        failed=len(load.answers) - len(answered),
        late_ms=late[int(0.99 * len(late))],
        sender_share=load.sender_share,
    )


def at_rate(
    server: Server, requests: Sequence[bytes], per_second: float, seconds: float, connections: int, arrivals: str
) -> Latency:
    """Latency at a rate, with arrivals at equal distances (`constant`), or with those of a Poisson process."""
    times = constant(per_second, seconds) if arrivals == "constant" else poisson(per_second, seconds)
    return latency(server, requests, times, connections)


@dataclass(frozen=True)
class Overload:
    """Outcome of requests at a multiple of the capacity; times in milliseconds unless named otherwise."""

    per_second: float
    seconds: float
    requests: int
    statuses: dict[int, int]
    refusal_median_ms: float
    refusal_p99_ms: float
    refusal_largest_ms: float
    answered_largest_ms: float
    answered_late: int  # answered with 200 after the deadline
    expired: int  # taken, and not answered within the deadline
    answered_per_second: float
    recovery_seconds: float
    sender_share: float


def overload(
    server: Server,
    requests: Sequence[bytes],
    per_second: float,
    seconds: float,
    connections: int,
    deadline_seconds: float,
    usual_ms: float,
) -> Overload:
    """Constant arrivals at a rate, and then, at once, single requests until the latency is as usual."""
    loaded = constant(per_second, seconds)
    probes = constant(PROBES_PER_SECOND, PROBED * seconds, start=seconds)
    load = open_loop(server.port, itertools.cycle(requests), loaded + probes, connections)
    answers = [answer for answer in load.answers if answer.planned < seconds]
    after = sorted((answer for answer in load.answers if answer.planned >= seconds), key=lambda each: each.planned)
    refused = [answer for answer in answers if answer.status in (429, 503)]
    answered = [answer for answer in answers if answer.status == 200]
    statuses = [answer.status for answer in answers]
    return Overload(
        per_second=per_second,
        seconds=seconds,
        requests=len(answers),
        statuses={status: statuses.count(status) for status in sorted(set(statuses))},
        refusal_median_ms=percentile_ms(refused, 50),
        refusal_p99_ms=percentile_ms(refused, 99),
        refusal_largest_ms=percentile_ms(refused, 100),
        answered_largest_ms=percentile_ms(answered, 100),
        answered_late=sum(answer.latency > deadline_seconds for answer in answered),
        expired=sum(answer.status in (0, 504) for answer in answers),
        answered_per_second=len(answered) / max(max((a.done for a in answered), default=seconds), seconds),
        recovery_seconds=recovery(after, usual_ms) - seconds if after else float("nan"),
        sender_share=load.sender_share,
    )


def recovery(probes: Sequence[Answer], usual_ms: float) -> float:
    """Time at which the first of several successive probes was due that were all answered as fast as usual."""
    usual = [probe.status == 200 and 1e3 * probe.latency <= usual_ms for probe in probes]
    many = min(RECOVERED_PROBES, len(probes))
    starts = (number for number in range(len(probes) - many + 1) if all(usual[number : number + many]))
    first = next(starts, None)
    return float("inf") if first is None else probes[first].planned


@dataclass(frozen=True)
class Soak:
    """Idle server before and after a long load: after the warm-up, after each part, and the answers by status."""

    per_second: float
    parts: list[Usage]
    statuses: dict[int, int]
    median_ms: float
    p99_ms: float

    @property
    def grown_mib(self) -> float:
        """Growth of the memory from the warm-up to the end."""
        return self.parts[-1].own_mib - self.parts[0].own_mib

    @property
    def leaked(self) -> dict[str, int]:
        """Files, threads and processes at the end beyond those after the warm-up."""
        names = ("files", "threads", "processes")
        return {name: getattr(self.parts[-1], name) - getattr(self.parts[0], name) for name in names}


def soak(
    server: Server, requests: Sequence[bytes], per_second: float, parts: int, part_seconds: float, connections: int
) -> Soak:
    """Poisson arrivals in parts, with damaged images and interrupted uploads; the server is idle in between."""
    damaged = server.contender.damaged()
    mixed = [damaged if number % DAMAGED_EVERY == 0 else request for number, request in enumerate(cycled(requests), 1)]
    answers: list[Answer] = []
    idle: list[Usage] = []
    # The largest batches come first: their memory is kept.
    open_loop(
        server.port, itertools.cycle(requests), constant(FILLED * per_second, min(3.0, part_seconds)), connections
    )
    for part in range(parts + 1):  # the first is the warm-up
        times = poisson(per_second, part_seconds, seed=part)
        answers += open_loop(server.port, itertools.cycle(mixed), times, connections).answers
        interrupt(server.port, requests[0], INTERRUPTED)
        time.sleep(min(SETTLE_SECONDS, part_seconds))
        idle.append(usage(server.pid))
    statuses = [answer.status for answer in answers]
    answered = [answer for answer in answers if answer.status == 200]
    return Soak(
        per_second=per_second,
        parts=idle,
        statuses={status: statuses.count(status) for status in sorted(set(statuses))},
        median_ms=percentile_ms(answered, 50),
        p99_ms=percentile_ms(answered, 99),
    )


def cycled(requests: Sequence[bytes]) -> list[bytes]:
    """The requests over and over, enough of them for one damaged image."""
    return list(itertools.islice(itertools.cycle(requests), max(len(requests), DAMAGED_EVERY)))


def interrupt(port: int, request: bytes, number: int) -> None:
    """Uploads whose connections end halfway."""
    for _ in range(number):
        with suppress(OSError), socket.create_connection((HOST, port), timeout=5) as connection:
            connection.sendall(request[: len(request) // 2])


def predict_seconds(sources: Path, run: Path, files: Path, environment: dict[str, str]) -> float:
    """Seconds that `loupe predict` takes as a command, from its start to its end."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["predict", run, files, "--to", Path(folder) / "answers.csv", "--device", "cpu", "--quiet"]
        command = [sys.executable, "-m", "loupe", *map(str, words)]
        began = time.perf_counter()
        done = subprocess.run(command, env={**environment, "PYTHONPATH": str(sources)}, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        return time.perf_counter() - began


def spread(values: Sequence[float], form: str = ",.1f") -> str:
    """Median of some rounds, with their range."""
    median = format(statistics.median(values), form)
    return median if len(values) == 1 else f"{median} ({min(values):{form}} to {max(values):{form}})"
