"""The server under load: beside `loupe predict`, and beside LitServe and BentoML on the same ONNX export.

    python benchmarks/serving.py RUN PHOTOS --sections throughput latency overload --rounds 5
    python benchmarks/serving.py RUN PHOTOS --sections peers --rounds 3 --litserve-python P --bentoml-python P
    python benchmarks/serving.py RUN PHOTOS --sections settings --litserve-python P --bentoml-python P
    python benchmarks/serving.py RUN PHOTOS --sections soak --soak-minutes 30

RUN is a finished run and PHOTOS a folder of images, of which `--images` are used, one in a request. The run is exported
to ONNX for `peers`, unless `--export` names that. Servers are processes here, on loopback. This process sends
the requests (load.py) and shares the cores with the server: `sender` is the share of one core that it took.

* throughput: a closed loop of `--connections` over all files, and the command `loupe predict` on them, in turns. The
  command's time is shown whole, and beyond its time for one image, which is its start.
* latency: 70 % of the capacity, arrivals at equal distances and Poisson arrivals, beside one image alone on the idle
  server. Latency counts from the time at which a request was due.
* peers: in each round every server is started, warmed and measured: capacity, 70 % of it, 70 % of the lowest capacity
  of the first round. None logs requests.
* settings: capacity and latency of the other servers with several settings; `--litserve` and `--bentoml` take the best.
* overload: 5 times the capacity, then single requests until these are as fast as on the idle server.
* soak: half of the capacity, with damaged images and interrupted uploads; memory, files, threads and processes of the
  server and its children, idle after each part, from the end of the first, which begins with a full queue.

The last line is the same as JSON. `--toy` runs each of them for a moment.
"""

import argparse
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from load import closed_loop
from servers import Contender, Server, running, usage
from serving_bench import SOURCES, Bench
from serving_loads import (
    OVERLOAD,
    SHARE,
    alone_ms,
    at_rate,
    capacity,
    overload,
    predict_seconds,
    soak,
    spread,
    undisturbed,
    whole,
)

LITSERVE_SETTINGS = [(1, 0), (4, 5), (8, 5), (8, 50), (16, 10), (32, 10)]  # batch, wait in ms
BENTOML_SETTINGS = [(4, 1000), (8, 1000), (16, 1000), (32, 1000), (100, 60_000), (16, 200)]  # batch, latency in ms
MOST_CONNECTIONS = 512
RUN, EXPORT = "loupe serve RUN", "loupe serve EXPORT"
SAME_PROBABILITY = 1e-4
PEER_HEAD = (
    "server | capacity, images/s | Loupe / this | one alone, ms | p99 at 70 % of own, constant, ms | Poisson | "
    "p99 at the same rate, constant, ms | Poisson | failed | memory, MiB | sender"
)
USUAL = 2.0  # times the 99th percentile of a single image on the idle server, within which a server has recovered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=["throughput", "latency", "overload"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tries", type=int, default=2, help="tries of a load while other processes take the cores")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of one load")
    parser.add_argument("--warm-up", type=float, default=3.0, metavar="SECONDS")
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--connections", type=int, default=32, help="connections of a closed loop")
    parser.add_argument("--deadline", type=float, default=10.0, metavar="SECONDS", help="of requests in an overload")
    parser.add_argument("--soak-minutes", type=float, default=30.0)
    parser.add_argument("--part-seconds", type=float, default=60.0, help="length of a part of the soak")
    parser.add_argument("--export", type=Path, help="ONNX export of the run")
    parser.add_argument("--litserve-python", type=Path)
    parser.add_argument("--bentoml-python", type=Path)
    parser.add_argument("--litserve", nargs=2, type=int, action="append", metavar=("BATCH", "WAIT_MS"))
    parser.add_argument("--bentoml", nargs=2, type=int, action="append", metavar=("BATCH", "LATENCY_MS"))
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of the other servers")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--write", type=Path, help="file for the tables")
    given = parser.parse_args()
    if given.toy:
        given.rounds, given.tries, given.seconds, given.warm_up, given.images, given.connections = 1, 1, 0.3, 0.1, 6, 4
        given.part_seconds, given.soak_minutes = 0.3, 0.005
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the servers end with this process
    try:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(given, Path(folder))
            for name in given.sections:
                bench.tables.append(f"## {name.capitalize()}")
                bench.found[name] = SECTIONS[name](bench)
            bench.report()
    finally:
        signal.signal(signal.SIGTERM, before)


def throughput(bench: Bench) -> Any:
    """Images per second of the server and of the command, by turns."""
    given, contender = bench.given, bench.loupe(bench.given.run, RUN)
    requests = contender.requests(bench.files)
    speeds: dict[str, list[float]] = {"server": [], "command": [], "command beyond its start": []}
    senders = []
    with bench.started(contender) as server:
        for _ in range(given.rounds):
            start = predict_seconds(SOURCES, given.run, bench.one, dict(os.environ))
            took = predict_seconds(SOURCES, given.run, bench.folder, dict(os.environ))
            load = whole(closed_loop(server.port, requests, given.connections), contender.name)
            speeds["server"].append(load.per_second)
            speeds["command"].append(len(requests) / took)
            speeds["command beyond its start"].append((len(requests) - 1) / max(took - start, 1e-3))
            senders.append(load.sender_share)
    median = {name: statistics.median(values) for name, values in speeds.items()}
    rows = [[name, spread(values), f"{median['server'] / median[name]:.2f}"] for name, values in speeds.items()]
    bench.table(f"{len(requests)} images | images/s | server / this", rows)
    bench.tables.append(f"The sender took {statistics.median(senders):.2f} of a core.")
    return {"images_per_second": speeds, "sender_share": senders}


def measured(bench: Bench, contender: Contender, per_second: float | None = None) -> dict[str, Any]:
    """Start, time of one image alone, capacity, and latency at 70 % of it and, where given, at another rate."""
    given, requests = bench.given, contender.requests(bench.files)
    with bench.started(contender) as server:
        one = alone_ms(server, requests, max(10, min(100, int(10 * given.seconds))))
        load, others = undisturbed(
            server, lambda: capacity(server, requests, given.connections, given.seconds), given.tries
        )
        found = {
            "others": others,
            "start_seconds": server.start_seconds,
            "alone_ms": one[0],
            "alone_p99_ms": one[1],
            "images_per_second": load.per_second,
            "failed": len(load.answers) - len(load.of_status(200)),
            "sender_share": load.sender_share,
            "own": rates(bench, server, requests, SHARE * load.per_second),
            "memory_mib": usage(server.pid).own_mib,
        }
        if per_second:
            found["same"] = rates(bench, server, requests, per_second)
    return found


def rates(bench: Bench, server: Server, requests: list[bytes], per_second: float) -> dict[str, dict[str, float]]:
    given, found = bench.given, {}
    for arrivals in ("constant", "poisson"):
        measure = partial(at_rate, server, requests, per_second, given.seconds, MOST_CONNECTIONS, arrivals)
        each, others = undisturbed(server, measure, given.tries)
        found[arrivals] = {**asdict(each), "others": others}
    return found


def latency(bench: Bench) -> Any:
    """99th percentile at 70 % of the capacity beside the time of one image alone."""
    rounds = [measured(bench, bench.loupe(bench.given.run, RUN)) for _ in range(bench.given.rounds)]
    alone = statistics.median(each["alone_ms"] for each in rounds)
    rows = [["one alone, median", "", spread([each["alone_ms"] for each in rounds]), "1"]]
    rows += [["one alone, 99th percentile", "", spread([each["alone_p99_ms"] for each in rounds]), ""]]
    for arrivals in ("constant", "poisson"):
        own = [each["own"][arrivals] for each in rounds]
        rate = spread([each["per_second"] for each in own])
        for name, key in (("median", "median_ms"), ("99th percentile", "p99_ms")):
            ratio = statistics.median(each[key] for each in own) / alone
            rows.append([f"70 %, {arrivals}, {name}", rate, spread([each[key] for each in own]), f"{ratio:.1f}"])
    bench.table("latency | requests/s | ms | x one alone", rows)
    return rounds


def peers(bench: Bench) -> Any:
    """Capacity and latency beside the other servers, which take turns in every round."""
    given = bench.given
    others = bench.peers(given.litserve or LITSERVE_SETTINGS[2:3], given.bentoml or BENTOML_SETTINGS[3:4])
    own = [bench.loupe(path, name, "--quiet") for path, name in ((bench.export, EXPORT), (given.run, RUN))]
    contenders = [own[0], *others, own[1]]
    if others:
        agreement(bench, contenders[:-1])
    rounds: dict[str, list[dict[str, Any]]] = {contender.name: [] for contender in contenders}
    lowest = None
    for number in range(given.rounds):
        for contender in contenders[number % len(contenders) :] + contenders[: number % len(contenders)]:
            rounds[contender.name].append(measured(bench, contender, lowest))
            print(f"round {number + 1}: {peer_row(contender.name, rounds[contender.name][-1:], 0.0)}", file=sys.stderr)
        lowest = SHARE * min(each[0]["images_per_second"] for each in rounds.values())
    ours = statistics.median(each["images_per_second"] for each in rounds[contenders[0].name])
    bench.table(PEER_HEAD, [peer_row(name, each, ours) for name, each in rounds.items()])
    return rounds


def peer_row(name: str, rounds: list[dict[str, Any]], ours: float) -> list[str]:
    speeds = [each["images_per_second"] for each in rounds]
    row = [
        name,
        spread(speeds),
        f"{ours / statistics.median(speeds):.2f}",
        spread([each["alone_ms"] for each in rounds]),
    ]
    for rate in ("own", "same"):
        for arrivals in ("constant", "poisson"):
            values = [each[rate][arrivals]["p99_ms"] for each in rounds if rate in each]
            row.append(spread(values, ",.0f") if values else "")
    at_rates = [
        each[rate][arrivals] for each in rounds for rate in ("own", "same") if rate in each for arrivals in each[rate]
    ]
    failed = sum(each["failed"] for each in (*rounds, *at_rates))
    return [
        *row,
        str(failed),
        spread([each["memory_mib"] for each in rounds], ",.0f"),
        spread([each["sender_share"] for each in rounds], ".2f"),
    ]


def agreement(bench: Bench, contenders: list[Contender]) -> None:
    """Ends the benchmark unless all servers say the same of the same files."""
    said = {}
    for contender in contenders:
        with running(contender, bench.work / "server.log") as server:
            load = whole(closed_loop(server.port, contender.requests(bench.files[:20]), 1), contender.name)
        said[contender.name] = [contender.answer(answer.json()) for answer in load.answers]
    (name, first), *others = said.items()
    for other, answers in others:
        for (label, probability), (own_label, own_probability) in zip(answers, first, strict=True):
            if label != own_label or abs(probability - own_probability) > SAME_PROBABILITY:
                raise SystemExit(f"{name}: {own_label}, {own_probability}; {other}: {label}, {probability}")


def settings(bench: Bench) -> Any:
    """Capacity and latency of the other servers with several settings."""
    found = {each.name: measured(bench, each) for each in bench.peers(LITSERVE_SETTINGS, BENTOML_SETTINGS)}
    bench.table(PEER_HEAD, [peer_row(name, [each], each["images_per_second"]) for name, each in found.items()])
    return found


def overloads(bench: Bench) -> Any:
    """Requests at 5 times the capacity."""
    given, contender = bench.given, bench.loupe(bench.given.run, RUN)
    requests = contender.requests(bench.files)
    with bench.started(contender) as server:
        _, usual_ms = alone_ms(server, requests, max(10, min(100, int(10 * given.seconds))))
        speed = capacity(server, requests, given.connections, given.seconds).per_second
        found = overload(
            server, requests, OVERLOAD * speed, given.seconds, MOST_CONNECTIONS, given.deadline, USUAL * usual_ms
        )
    refusals = f"{found.refusal_median_ms:.1f}, {found.refusal_p99_ms:.1f}, {found.refusal_largest_ms:.1f}"
    rows = [
        ["requests/s, offered and answered", f"{found.per_second:,.0f}, {found.answered_per_second:,.1f}", ""],
        ["requests by status", ", ".join(f"{status}: {many}" for status, many in found.statuses.items()), ""],
        ["refusal, ms: median, 99th percentile, largest", refusals, "50"],
        [f"answer, s: largest (deadline {given.deadline:g})", f"{found.answered_largest_ms / 1e3:.2f}", ""],
        ["taken, and answered late or not at all", f"{found.answered_late}, {found.expired}", "0"],
        [f"recovery, s: to {USUAL * usual_ms:.0f} ms", f"{found.recovery_seconds:.2f}", "2"],
        ["sender, cores", f"{found.sender_share:.2f}", ""],
    ]
    bench.table("overload | | bar", rows)
    return {**asdict(found), "usual_ms": usual_ms}


def soaked(bench: Bench) -> Any:
    """Memory, files, threads and processes over a long load."""
    given, contender = bench.given, bench.loupe(bench.given.run, RUN)
    requests = contender.requests(bench.files)
    with bench.started(contender) as server:
        speed = capacity(server, requests, given.connections, given.seconds).per_second
        parts = max(1, round(60 * given.soak_minutes / given.part_seconds))
        found = soak(server, requests, speed / 2, parts, given.part_seconds, MOST_CONNECTIONS)
    shown = sorted({*range(0, len(found.parts), max(1, len(found.parts) // 6)), len(found.parts) - 1})
    rows = [
        [
            f"{number * given.part_seconds / 60:.1f}",
            f"{each.own_mib:,.1f}",
            f"{each.rss_mib:,.1f}",
            *map(str, (each.files, each.threads, each.processes)),
        ]
        for number, each in enumerate(found.parts)
        if number in shown
    ]
    bench.table("minutes after the warm-up | memory, MiB | resident, MiB | files | threads | processes", rows)
    bench.tables.append(
        f"Answers by status: {found.statuses}. 99th percentile {found.p99_ms:.0f} ms at {found.per_second:.0f}/s."
    )
    return {**asdict(found), "grown_mib": found.grown_mib, "leaked": found.leaked}


SECTIONS: dict[str, Callable[[Bench], Any]] = {
    "throughput": throughput,
    "latency": latency,
    "peers": peers,
    "settings": settings,
    "overload": overloads,
    "soak": soaked,
}

if __name__ == "__main__":
    main()
