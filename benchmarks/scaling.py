"""Simulation of trainings on 8, 64 and 512 GPUs and of 10^9 predictions: what a cluster that is not at hand would do.

    python benchmarks/scaling.py --measured results/scale.json --json results/scaling.json

Measured here (benchmarks/scale.py): the time of an exchange of plain values between ranks, the step of a network on
this machine, decoding and prediction. Stated, with their sources in docs/scaling.md: the step of a GPU, bandwidths,
latencies, failures and prices. A training is played step by step: each rank draws the time of its step, the slowest one
is waited for, gradients are reduced by hierarchical rings of which a part hides behind the backward pass, and failures
send the training back to its last checkpoint.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from setting import commit

SEED = 0
SIMULATED_STEPS = 2_000
HOUR = 3600.0


@dataclass(frozen=True)
class Cluster:
    """Machines with GPUs. Bandwidths in bytes/s, times in seconds.

    Attributes:
        link: bandwidth of a GPU to the others of its machine; network: bandwidth of a machine to the others.
        link_latency, network_latency: time of one message.
        spread: standard deviation of the logarithm of a rank's step time.
        failure_hours: mean hours of one GPU between two failures that end the training.
        restart: from a failure to the first step after it.
        disk: bandwidth to the disk of the checkpoints.
        price: of a GPU for an hour, in dollars.
    """

    gpus: int
    gpus_per_machine: int = 8
    link: float = 235e9
    network: float = 40e9
    link_latency: float = 8e-6
    network_latency: float = 20e-6
    spread: float = 0.03
    failure_hours: float = 50_700.0
    restart: float = 300.0
    disk: float = 1e9
    price: float = 2.75

    @property
    def machines(self) -> int:
        return math.ceil(self.gpus / self.gpus_per_machine)


@dataclass(frozen=True)
class Training:
    """Training of one network. Times in seconds.

    Attributes:
        images_per_second: of one GPU at full batches.
        least_step: time of a step with few images, in which the GPU waits for its kernels to be started.
        batch: images of a step on all GPUs together.
        normalisations: batch normalisation layers.
        gradient_bytes: of all trained weights.
        exchange_base, exchange_each: time in which n ranks exchange a plain value, base + n * each (measured for few).
        exchange_every_steps: steps between two such exchanges, which agree on a stop.
        synchronised: batch normalisation over all ranks; None: by the rule, with under 16 images a rank.
        checkpoint_seconds: between two checkpoints.
    """

    images: int
    epochs: int
    batch: int
    images_per_second: float
    least_step: float
    gradient_bytes: float
    normalisations: int
    exchange_base: float
    exchange_each: float
    exchange_every_steps: int = 20
    synchronised: bool | None = None
    checkpoint_seconds: float = 600.0
    validation_images: int = 50_000

    def is_synchronised(self, gpus: int) -> bool:
        return self.batch / gpus < 16 if self.synchronised is None else self.synchronised


@dataclass(frozen=True)
class Outcome:
    """Simulated training: images per second while it trains, share of each loss in the whole time, hours and cost."""

    gpus: int
    batch: int
    images_per_second: float
    efficiency: float
    hours: float
    dollars: float
    shares: dict[str, float]


def reduction_seconds(cluster: Cluster, size: float) -> float:
    """Time of an all-reduce: rings inside the machines, rings of machines between them, each on its share of bytes.

    A ring moves 2 (n - 1) / n of the bytes in 2 (n - 1) messages (Patarasuk and Yuan 2009); between machines a double
    tree is assumed for latency, 2 log2(n) messages, as NCCL takes for many machines.
    """
    inside = min(cluster.gpus, cluster.gpus_per_machine)
    seconds = 2 * (inside - 1) / inside * size / cluster.link + 2 * (inside - 1) * cluster.link_latency
    if cluster.machines > 1:
        machines = cluster.machines
        seconds += 2 * (machines - 1) / machines * size / cluster.network
        seconds += 2 * math.log2(machines) * cluster.network_latency
    return seconds if cluster.gpus > 1 else 0.0


def simulated(cluster: Cluster, training: Training, random: np.random.Generator) -> Outcome:
    """Play a training: steps with stragglers, exchanges, validation, checkpoints and failures."""
    share = training.batch / cluster.gpus
    compute = max(training.least_step, math.ceil(share) / training.images_per_second)
    # Log-normal with mean `compute`; drawn rank by rank, step by step.
    drawn = np.exp(random.normal(-(cluster.spread**2) / 2, cluster.spread, (SIMULATED_STEPS, cluster.gpus)))
    slowest = float(drawn.max(axis=1).mean()) * compute
    gradients = reduction_seconds(cluster, training.gradient_bytes)
    hidden = min(gradients * 0.9, compute * 2 / 3)  # the backward pass; the last bucket has nothing to hide behind
    exposed = gradients - hidden
    control = (training.exchange_base + training.exchange_each * cluster.gpus) / training.exchange_every_steps
    control = control if cluster.gpus > 1 else 0.0
    statistics = 0.0
    if cluster.gpus > 1 and training.is_synchronised(cluster.gpus):
        statistics = 2 * training.normalisations * reduction_seconds(cluster, 2 * 4 * 512)
    step = slowest + exposed + control + statistics
    steps = math.ceil(training.images / training.batch) * training.epochs
    validation = training.epochs * training.validation_images / cluster.gpus / (3 * training.images_per_second)
    busy = steps * step + validation
    saving = busy / training.checkpoint_seconds * 3 * training.gradient_bytes / cluster.disk
    failed = _failures(cluster, busy + saving, training.checkpoint_seconds, random)
    whole = busy + saving + failed
    parts = {
        "computing": steps * compute,
        "waiting for the slowest rank": steps * (slowest - compute),
        "gradients": steps * exposed,
        "batch statistics": steps * statistics,
        "agreeing on a stop": steps * control,
        "validation": validation,
        "checkpoints": saving,
        "failures": failed,
    }
    ideal = cluster.gpus * training.images_per_second
    return Outcome(
        gpus=cluster.gpus,
        batch=training.batch,
        images_per_second=training.batch / step,
        efficiency=training.images * training.epochs / whole / ideal,
        hours=whole / HOUR,
        dollars=whole / HOUR * cluster.gpus * cluster.price,
        shares={name: seconds / whole for name, seconds in parts.items()},
    )


def _failures(cluster: Cluster, seconds: float, between: float, random: np.random.Generator) -> float:
    """Mean time lost to failures over 200 trainings: the restart, and what was done since the last checkpoint."""
    rate = cluster.gpus / (cluster.failure_hours * HOUR)
    lost = []
    for _ in range(200):
        failures, remaining = 0.0, seconds
        while (until := random.exponential(1 / rate)) < remaining:
            undone = min(until, random.uniform(0, between))
            failures += cluster.restart + undone
            remaining -= until
        lost.append(failures)
    return float(np.mean(lost))


@dataclass(frozen=True)
class Prediction:
    """Prediction of many images on machines of one kind. Rates for one machine, times in seconds, prices in dollars.

    Attributes:
        decoded_per_core: images that a core decodes in a second.
        predicted: images that the network takes in a second, on all cores or on the GPU.
        network: bandwidth to the store in bytes/s.
        requests_per_second: that the store answers (one prefix).
        latency: of one request; in_flight: requests at a time of a machine, as Loupe reads files.
        listed_per_second: names that one process lists and writes to the plan.
        unit: images of a part; failure_hours: mean hours of a machine between two losses of it.
    """

    images: float
    image_bytes: float
    cores: int
    decoded_per_core: float
    predicted: float
    price: float
    network: float = 1.25e9
    requests_per_second: float = 5_500.0
    latency: float = 0.1
    in_flight: int = 16
    request_price: float = 0.4e-6
    listed_per_second: float = 10_000.0
    unit: int = 2_048
    failure_hours: float = 100.0  # spot machines
    images_per_request: float = 1.0

    def on(self, machines: int) -> dict[str, float | str]:
        """Rate, hours, cost and the narrowest place on a number of machines."""
        rates = {
            "decoding": machines * self.cores * self.decoded_per_core,
            "network of the model": machines * self.predicted,
            "bandwidth of the machines": machines * self.network / self.image_bytes,
            "latency of requests": machines * self.in_flight / self.latency * self.images_per_request,
            "requests of the store": self.requests_per_second * self.images_per_request,
        }
        narrowest = min(rates, key=lambda name: rates[name])
        rate = rates[narrowest]
        hours = self.images / rate / HOUR
        again = hours * machines / self.failure_hours * self.unit  # half a unit is lost in the mean, and one is waiting
        hours += again / rate / HOUR
        listing = self.images / self.listed_per_second / HOUR
        return {
            "machines": machines,
            "images_per_second": rate,
            "narrowest": narrowest,
            "hours": hours,
            "listing_hours": listing,
            "parts": math.ceil(self.images / self.unit),
            "computed_again": again / self.images,
            "dollars_machines": hours * machines * self.price,
            "dollars_requests": self.images / self.images_per_request * self.request_price,
        }


def trainings(measured: dict[str, float]) -> dict[str, Training]:
    """Reference trainings: ResNet-50 on ImageNet with a fixed batch, and with 256 images for each GPU."""
    common = Training(
        images=1_281_167,
        epochs=90,
        batch=1_024,
        images_per_second=3_660.0,
        least_step=0.02,
        gradient_bytes=25.6e6 * 4,
        normalisations=53,
        exchange_base=measured["exchange_base_seconds"],
        exchange_each=measured["exchange_each_seconds"],
    )
    return {"batch of 1,024": common, "256 images a GPU": replace(common, batch=0)}


def predictions(measured: dict[str, float]) -> dict[str, Prediction]:
    """Prediction of 10^9 photographs of 110 kB: with and without a GPU, from files one by one or from shards."""
    cores = int(measured["cores"])
    here = Prediction(
        images=1e9,
        image_bytes=110e3,
        cores=16,
        decoded_per_core=measured["decoded_per_second"] / cores,
        predicted=measured["predicted_per_second"] / cores * 16,
        price=0.68,
        listed_per_second=measured["listed_per_second"],
    )
    gpu = replace(here, predicted=10_000.0, price=1.21)
    shards = {"images_per_request": 900.0}
    return {
        "CPU, a file for each image": here,
        "CPU, shards of 100 MB": replace(here, **shards),
        "GPU, a file for each image": gpu,
        "GPU, shards of 100 MB": replace(gpu, **shards),
    }


def results(measured: dict[str, float], counts: Sequence[int], machines: Sequence[int]) -> dict[str, object]:
    """All simulated outcomes by name."""
    found: dict[str, object] = {}
    for name, training in trainings(measured).items():
        rows = []
        for gpus in counts:
            one = replace(training, batch=training.batch or 256 * gpus)
            rows.append(asdict(simulated(Cluster(gpus), one, np.random.default_rng(SEED))))
        found[name] = rows
    for kind, prediction in predictions(measured).items():
        found[kind] = [prediction.on(count) for count in machines]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, required=True, help="result of benchmarks/scale.py")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--machines", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    measured = json.loads(given.measured.read_text(encoding="utf-8"))["for_simulation"]
    found = {"commit": commit(), "measured": measured, **results(measured, given.gpus, given.machines)}
    text = json.dumps(found, indent=1)
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
