"""What a run runs on: device, precision, threads, and the signals that ask it to stop."""

import ctypes
import os
import signal
import statistics
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType, TracebackType
from typing import Literal, Self

import torch

from loupe.errors import ConfigError
from loupe.log import logger

DEVICES = ("auto", "cpu", "cuda", "mps")
Resolved = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[Resolved, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# mallopt's parameters, from malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4

# A reduced precision must earn its place: below this gain over fp32, `auto` stays with fp32.
WORTHWHILE_SPEEDUP = 1.15


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU; a named device that is not there raises LoupeError."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    kind = name.partition(":")[0]
    if kind not in available:
        raise ConfigError(f"unknown device {name!r}. Known: {', '.join(DEVICES)}, or one GPU such as cuda:0.")
    if not available[kind]:
        raise ConfigError(f"--device {name}: PyTorch finds no such device here. Use --device auto.")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(
            f"--device {name}: not a device. Known: {', '.join(DEVICES)}, or one GPU such as cuda:0."
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: there are {torch.cuda.device_count()} GPUs here, counted from 0.")
    return device


def gpu_name(device: torch.device) -> str | None:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: fewer than there are, where a container or a scheduler says so
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def processor_flags() -> frozenset[str]:
    """What the processor can do, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith(("flags", "Features"))), "").split())


def multiplies_bf16(device: torch.device) -> bool:
    """Whether it is a CPU with units for products of bf16 matrices (AMX): with instructions alone fp32 is faster."""
    return device.type == "cpu" and "amx_bf16" in processor_flags()


def use_threads(threads: int) -> None:
    """Sums are split among threads, so that another number of them gives other last bits."""
    if torch.get_num_threads() != threads:
        logger.info(
            f"{threads} threads, as the run began with, for the same bits ({torch.get_num_threads()} by default)."
        )
        torch.set_num_threads(threads)


def precisions(device: torch.device) -> tuple[Resolved, ...]:
    """The precisions that `auto` weighs on this device. fp16 is only for GPUs that lack bf16: it needs loss scaling."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return ("fp32", "fp16")
    return ("fp32", "bf16")


@dataclass(frozen=True)
class Compute:
    """Where a network is computed, and in what precision its convolutions and matrix products are.

    With it, fp32 means fp32 on NVIDIA GPUs, for the whole process: PyTorch otherwise rounds their convolutions to TF32.
    """

    device: torch.device
    precision: Resolved

    def __post_init__(self) -> None:
        # Here, because whatever is timed, trained or evaluated needs one of these, and in bf16 too: what is outside
        # of `autocast` is fp32 there. These are the older of PyTorch's two kinds of switches. Every version has them,
        # and one that has both raises where the newer are set and the older are read, as other libraries do.
        if self.device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False

    def autocast(self) -> AbstractContextManager[object]:
        """Forward passes inside run in the precision; weights, norms' statistics and losses stay in fp32."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.precision])

    def scaler(self) -> torch.amp.GradScaler:
        """Keeps fp16 gradients from vanishing; does nothing in the other precisions."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def synchronize(self) -> None:
        """Waits until the device has done what it was given, so that a clock read now tells the truth."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


def fastest_precision(
    candidates: tuple[Resolved, ...], seconds: Callable[[Resolved], float], timed: str = "a step", repeats: int = 3
) -> tuple[Resolved, str]:
    """The precision of the shortest step, and the reason in words.

    Args:
        candidates: precisions, fp32 among them.
        seconds: runs a few training steps in one precision and returns the time of one step.
        timed: what stands in the place of a step, in words.
        repeats: how often each is timed; they take turns, because other work comes and goes, and medians count.
    """
    times: dict[Resolved, list[float]] = {candidate: [] for candidate in candidates}
    for _ in range(repeats):
        for candidate in candidates:
            times[candidate].append(seconds(candidate))
    median = {candidate: statistics.median(values) for candidate, values in times.items()}
    best = min(median, key=lambda candidate: median[candidate])
    speedup = median["fp32"] / median[best]
    shown = ", ".join(f"{candidate} {1000 * value:.0f} ms" for candidate, value in median.items())
    if best == "fp32" or speedup < WORTHWHILE_SPEEDUP:
        return "fp32", f"precision fp32: no other is {WORTHWHILE_SPEEDUP:g} times faster here ({timed} takes {shown})"
    return best, f"precision {best}: {speedup:.1f} times faster than fp32 here ({timed} takes {shown})"


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory rather than give it back to the system; does nothing elsewhere.

    Networks on a CPU free and take the same hundreds of megabytes in every step, and in every batch that they predict.
    By default glibc returns them each time, and the kernel then clears them anew, page by page: up to two fifths of a
    training step's processor time, four fifths of a forward pass's (results/features.md). It stays so for the process;
    `give_back_memory` returns what is free at one moment.
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_memory() -> None:
    """Returns what glibc keeps to the system, when work that took much of it is over; does nothing elsewhere."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


class StopSignal:
    """Inside, Ctrl-C and SIGTERM set `received` in place of ending the process; a second one ends it at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        # Only the main thread may set handlers; elsewhere (a notebook's worker, a server) signals are not ours to take.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = True
