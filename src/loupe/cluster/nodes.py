"""Nodes of a cluster: their resources, and checks of their versions and of the folders that they can see."""

import heapq
import math
import os
import platform
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import torch

from loupe import __version__, provenance
from loupe.errors import ConfigError, DiskError, counted, enumerated
from loupe.log import logger

T = TypeVar("T")

ANSWER_SECONDS = 180.0  # for a node to start a worker and to load PyTorch
PROBE = ".loupe-cluster-"
WAITING_SECONDS = 20.0


@dataclass(frozen=True)
class Versions:
    """Versions on which figures depend; `sources` is the hash of Loupe's source files."""

    python: str
    loupe: str
    torch: str
    sources: str

    def differences(self, other: "Versions") -> list[str]:
        """Names of the versions that differ, each with the other value and the own one."""
        found: list[str] = []
        for name in (one.name for one in fields(self)):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine == theirs:
                continue
            if name == "sources":
                found += [] if found else ["other source files of Loupe"]
            else:
                found.append(f"{name} {theirs} in place of {mine}")
        return found


def versions() -> Versions:
    """Versions of this process."""
    sources = provenance.of_sources(provenance.SOURCES)
    return Versions(platform.python_version(), __version__, torch.__version__, sources)


@dataclass(frozen=True)
class Node:
    """Machine of a cluster, with the cores and GPUs that Ray lends there."""

    id: str
    name: str
    cpus: float
    gpus: float

    def __str__(self) -> str:
        gpus = f", {counted(int(self.gpus), 'GPU')}" if self.gpus else ""
        return f"{self.name} ({counted(int(self.cpus), 'CPU')}{gpus})"

    def slots(self, cpus: float, gpus: float) -> int:
        """Number of tasks with these resources that run there at a time."""
        return int(min(self.cpus // cpus if cpus else math.inf, self.gpus // gpus if gpus else math.inf))


@dataclass(frozen=True)
class Cluster:
    """Nodes that are connected, under the address that the user gave."""

    address: str
    nodes: tuple[Node, ...]

    @classmethod
    def of_ray(cls, address: str) -> "Cluster":
        """Cluster of the Ray that this process is connected to."""
        return cls(address, alive())

    def __str__(self) -> str:
        return enumerated([str(node) for node in self.nodes])

    @property
    def has_gpus(self) -> bool:
        return any(node.gpus for node in self.nodes)

    def slots(self, cpus: float, gpus: float) -> int:
        """Number of tasks with these resources that run at a time."""
        return sum(node.slots(cpus, gpus) for node in self.nodes)

    def seconds(self, expected: Sequence[float], cpus: float, gpus: float) -> float:
        """Time until all tasks have ended, each begun on the first free place in this order; NaN if one is unknown."""
        places = [0.0] * max(1, self.slots(cpus, gpus))
        for each in expected:
            heapq.heappush(places, heapq.heappop(places) + each)
        return max(places)

    def check_slots(self, cpus: int, gpus: int) -> None:
        """Check that a task with these resources can run.

        Raises:
            ConfigError: no node has as many.
        """
        if self.slots(cpus, gpus):
            return
        wanted = counted(cpus, "CPU") + (f" and {counted(gpus, 'GPU')}" if gpus else "")
        raise ConfigError(
            f"--cluster {self.address}: no node has {wanted} for a task: {self}. "
            "Give fewer threads with OMP_NUM_THREADS, another --device, or nodes that have them."
        )

    def each(self, function: Callable[..., T], *arguments: Any) -> list[T]:
        """Result of a function with these arguments on each node.

        Raises:
            ConfigError: a node cannot run it, or does not answer.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        call = ray.remote(function)
        sent = [
            call.options(
                num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
            ).remote(*arguments)
            for node in self.nodes
        ]
        found = []
        for node, answer in zip(self.nodes, sent, strict=True):
            try:
                found.append(ray.get(answer, timeout=ANSWER_SECONDS))
            except ray.exceptions.RayError as error:
                raise ConfigError(
                    f"node {node.name} of --cluster {self.address} cannot run Loupe: {_last_line(error)}. Install "
                    "the same versions of Python, Loupe and torch there, or leave the node out."
                ) from None
        return found

    def check_versions(self) -> None:
        """Check that all nodes have the versions of this process.

        Raises:
            ConfigError: a node has others.
        """
        mine = versions()
        for node, theirs in zip(self.nodes, self.each(versions), strict=True):
            if different := mine.differences(theirs):
                raise ConfigError(
                    f"node {node.name} of --cluster {self.address} has {enumerated(different)}. Install the same "
                    "versions there, or leave the node out."
                )

    def check_folders(self, output: Path, needed: Sequence[Path]) -> None:
        """Check that all nodes see files of this machine, and that they can write into a folder of it.

        Args:
            output: folder that this machine and the nodes write into; created if it is missing.
            needed: files and folders that are read.

        Raises:
            ConfigError: a node does not see one of them, or cannot write.
            DiskError: the folder cannot be written here.
        """
        probe = output / f"{PROBE}{secrets.token_hex(8)}"
        try:
            output.mkdir(parents=True, exist_ok=True)
            probe.write_text(probe.name, encoding="utf-8")
        except OSError as error:
            raise DiskError(f"{output} cannot be written: {error.strerror or error}. Choose another folder.") from None
        try:
            found = self.each(problem, probe, tuple(needed))
        finally:
            with suppress(OSError):
                probe.unlink()
        for node, what in zip(self.nodes, found, strict=True):
            if what is not None:
                raise ConfigError(
                    f"node {node.name} of --cluster {self.address} {what}. Put it on storage that all nodes have at "
                    "the same path, or leave the node out."
                )


@dataclass(frozen=True)
class Resources:
    """Cores and GPUs of each task; as many threads as cores, so that its figures are those of this process."""

    cpus: int
    gpus: int

    @classmethod
    def of(cls, device: str, cluster: Cluster) -> "Resources":
        """Resources for a device, where `auto` is a GPU if a node has one."""
        gpu = device.startswith("cuda") or (device == "auto" and cluster.has_gpus)
        return cls(torch.get_num_threads(), int(gpu))

    def __str__(self) -> str:
        return counted(self.cpus, "CPU") + (f" and {counted(self.gpus, 'GPU')}" if self.gpus else "")


@dataclass
class Waiting:
    """Wait for tasks with these resources, which warns where no node is left that can run one."""

    each: Resources
    _since: float = field(default_factory=time.monotonic)

    def ended(self) -> None:
        """Note that a task has ended."""
        self._since = time.monotonic()

    def check(self, left: int, what: str) -> None:
        """Warn if no node can run a task, where none has ended for a while.

        Args:
            left: number of things that are to be done.
            what: one of them, as a word.
        """
        if time.monotonic() - self._since <= WAITING_SECONDS:
            return
        self._since = time.monotonic()
        if not any(node.slots(self.each.cpus, self.each.gpus) for node in alive()):
            logger.warning(
                f"no node with {self.each} is left: {counted(left, what)} to go. Start a node with `ray start`, or "
                "stop with Ctrl-C: the same command goes on from here."
            )


def alive() -> tuple[Node, ...]:
    """Nodes of the connected Ray that are alive, by name; those of one name are told apart by their id."""
    import ray

    listed: Any = ray.nodes  # without types
    found: list[dict[str, Any]] = [one for one in listed() if one["Alive"]]
    named = [one.get("NodeName") or one["NodeManagerAddress"] for one in found]
    counts = Counter(named)
    nodes = [
        Node(
            id=one["NodeID"],
            name=name if counts[name] == 1 else f"{name} {one['NodeID'][:6]}",
            cpus=one["Resources"].get("CPU", 0.0),
            gpus=one["Resources"].get("GPU", 0.0),
        )
        for name, one in zip(named, found, strict=True)
    ]
    return tuple(sorted(nodes, key=lambda node: node.name))


def problem(probe: Path, needed: Sequence[Path]) -> str | None:
    """Reason why this machine cannot work with a folder and files of another; None if it can."""
    try:
        if probe.read_text(encoding="utf-8") != probe.name:
            return f"does not see {probe.parent}, the folder of the results"
    except OSError:
        return f"does not see {probe.parent}, the folder of the results"
    mine = probe.with_name(f"{probe.name}-{socket.gethostname()}-{os.getpid()}")
    try:
        mine.write_text("", encoding="utf-8")
        mine.unlink()
    except OSError as error:
        return f"cannot write into {probe.parent} ({error.strerror or error})"
    missing = next((path for path in needed if not os.path.exists(path)), None)  # noqa: PTH110 - without permission
    return None if missing is None else f"does not see {missing}"


def _last_line(error: Exception) -> str:
    """Last line of an error of Ray, which holds the error of the worker; without the full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300].rstrip(".")
