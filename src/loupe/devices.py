"""Device, precision and threads of a run, and the signals that stop it."""

import ctypes
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType, TracebackType
from typing import Literal, Self

import torch

from loupe import deadline, ranks
from loupe.errors import ConfigError, counted
from loupe.log import logger
from loupe.openmp import cores
from loupe.ranks import Ranks

DEVICES = ("auto", "cpu", "cuda", "mps")
Resolved = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[Resolved, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# mallopt's parameters, from malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4

# A signal that ranks get twice, from the terminal and from their launcher, counts once.
SAME_SIGNAL_SECONDS = 2.0

# Smallest speedup over fp32 for which `auto` chooses a reduced precision.
WORTHWHILE_SPEEDUP = 1.15


def choose_device(name: str) -> torch.device:
    """Device of that name; `auto` is the first available of CUDA, MPS and CPU.

    Of several ranks, each gets a GPU of its own, or all compute on the CPU.

    Raises:
        ConfigError: the name is unknown, or the device is not available, or not to every rank.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not ranks.current().alone:
        name = _shared_out(name, ranks.current())
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    kind = name.partition(":")[0]
    if kind not in available:
        raise ConfigError(f"unknown device {name!r}. Known: {', '.join(DEVICES)}, or one GPU such as cuda:0.")
    if not available[kind]:
        raise ConfigError(f"--device {name}: PyTorch finds no such device. Use --device auto.")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(
            f"--device {name}: not a device. Known: {', '.join(DEVICES)}, or one GPU such as cuda:0."
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"--device {name}: this machine has {counted(torch.cuda.device_count(), 'GPU')}, counted from 0."
        )
    return device


def _shared_out(name: str, joined: Ranks) -> str:
    """Device of a rank, for a name that all ranks have been given.

    Raises:
        ConfigError: it cannot be shared, or there are fewer GPUs than processes.
    """
    gpus, processes = torch.cuda.device_count(), counted(joined.local_count, "process")
    if name == "mps" or name.startswith("cuda:"):
        raise ConfigError(
            f"--device {name} is one GPU, for {processes}. Give cuda, of which each takes one, or cpu; or one process."
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cuda" or not gpus:
        return name
    if joined.local_count > gpus:
        raise ConfigError(
            f"{processes} on a machine with {counted(gpus, 'GPU')}: each needs its own. Start {gpus}, or give --device "
            "cpu."
        )
    return f"cuda:{joined.local_rank}"


def gpu_name(device: torch.device) -> str | None:
    """Name of a CUDA GPU; None for other devices."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


@cache
def processor_flags() -> frozenset[str]:
    """Feature flags of the processor on Linux; empty elsewhere."""
    return frozenset((_of_first_processor("flags") or _of_first_processor("Features")).split())


@cache
def processor_vendor() -> str:
    """Vendor of the processor on Linux, such as `AuthenticAMD`; empty elsewhere."""
    return _of_first_processor("vendor_id")


def _of_first_processor(key: str) -> str:
    """Value of a key of Linux's list of processors; empty if it is not there."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    found = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in found if name.strip() == key), "")


def has_bf16_matrix_units(device: torch.device) -> bool:
    """True for a CPU with matrix units for bf16 (AMX); PyTorch is faster in fp32 with vector instructions alone."""
    return device.type == "cpu" and "amx_bf16" in processor_flags()


def openvino_gains_from_bf16(device: torch.device) -> bool:
    """True for a CPU on which OpenVINO was measured to be faster in bf16 than in fp32.

    Such are matrix units (AMX), and AMD's vector instructions (about twice as fast); on Intel's, in a processor without
    AMX, bf16 took 1.4 times as long (results/features.md).
    """
    if has_bf16_matrix_units(device):
        return True
    return device.type == "cpu" and "avx512_bf16" in processor_flags() and processor_vendor() == "AuthenticAMD"


def use_threads(threads: int) -> None:
    """Sums are split among threads, so that another number of them gives other last bits."""
    if torch.get_num_threads() != threads:
        logger.info(
            f"{threads} threads, as the run began with, for the same bits ({torch.get_num_threads()} by default)."
        )
        torch.set_num_threads(threads)


def threads_reason() -> str:
    """Number of PyTorch's threads in words, with its origin."""
    threads, limit = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    if limit == str(threads):
        return f"{counted(threads, 'thread')}, by OMP_NUM_THREADS"
    if threads == cores():
        return f"{counted(threads, 'thread')}, one for each core"
    return f"{counted(threads, 'thread')} on {counted(cores(), 'core')}, as PyTorch chose, or as the repeated run had"


def precisions(device: torch.device) -> tuple[Resolved, ...]:
    """Precisions that `auto` compares on a device; fp16, which needs loss scaling, only on GPUs without bf16."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return ("fp32", "fp16")
    return ("fp32", "bf16")


@dataclass(frozen=True)
class Compute:
    """Device of a network, and precision of its convolutions and matrix products.

    Creating one sets cuDNN up for the whole process: without TF32, to which PyTorch otherwise rounds fp32 convolutions,
    and with algorithms that give the same bits each time, so that a resumed or repeated run has the same results.
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
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True

    def autocast(self) -> AbstractContextManager[object]:
        """Context for forward passes in this precision; weights, batch-norm statistics and losses stay in fp32."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.precision])

    def scaler(self) -> torch.amp.GradScaler:
        """Gradient scaler, against underflow of fp16 gradients; disabled in other precisions."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def synchronize(self) -> None:
        """Wait until the device has finished all queued work, for example before reading a clock."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


def fastest_precision(
    candidates: tuple[Resolved, ...], seconds: Callable[[Resolved], float], timed: str = "a step", repeats: int = 5
) -> tuple[Resolved, str]:
    """Fastest precision by the time of a step, with the reason in words; fp32 on a tie.

    The clock alone decides here: call it through `loupe.settled`, so that a machine decides once.

    Args:
        candidates: precisions, including fp32.
        seconds: function that returns the time of one step in a precision.
        timed: name of the timed step, for the reason.
        repeats: number of timings of each precision, alternating. Another one than fp32 is a tie unless its median is
            `WORTHWHILE_SPEEDUP` times faster, and so is all but one of its timings, each beside that of fp32.
    """
    times: dict[Resolved, list[float]] = {candidate: [] for candidate in candidates}
    for _ in range(repeats):
        for candidate in candidates:
            times[candidate].append(seconds(candidate))
    median = {candidate: statistics.median(values) for candidate, values in times.items()}
    best = min(median, key=lambda candidate: median[candidate])
    pairs = zip(times["fp32"], times[best], strict=True)
    faster = sum(whole >= WORTHWHILE_SPEEDUP * reduced for whole, reduced in pairs)
    speedup = median["fp32"] / median[best]
    timings = ", ".join(f"{candidate} {1000 * value:.0f} ms" for candidate, value in median.items())
    if best != "fp32" and speedup >= WORTHWHILE_SPEEDUP and faster >= repeats - 1:
        return best, f"precision {best}: {speedup:.1f} times faster than fp32 ({timed} takes {timings})"
    reason = f"precision fp32: no other is clearly {WORTHWHILE_SPEEDUP:g} times faster ({timed} takes {timings})"
    return "fp32", reason


def keep_freed_memory() -> None:
    """Make glibc keep freed memory instead of returning it to the system; no effect with other C libraries.

    Networks on a CPU free and allocate the same hundreds of megabytes in every batch. By default glibc returns them
    each time, and the kernel clears them again page by page: up to two fifths of the processor time of a training step
    and four fifths of a forward pass (results/features.md). The setting lasts for the process; `give_back_memory`
    returns free memory once.
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_memory() -> None:
    """Return free memory of glibc to the system; no effect with other C libraries."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


class StopSignal:
    """Context in which Ctrl-C and SIGTERM set `received` instead of ending the process; a second signal ends it.

    Where the process is one of several ranks, a second one within `SAME_SIGNAL_SECONDS` is taken for the first. Inside
    of `stopping_when`, its condition counts as a signal.

    Attributes:
        number: of the signal that was received first.
        is_heeded: True once the work has seen that it is to stop.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self._received = False
        self.is_heeded = False
        self.number: int = signal.SIGINT
        self._first = 0.0
        self._before: dict[signal.Signals, object] = {}

    @property
    def received(self) -> bool:
        """True if the work is to stop; whoever reads it stops."""
        asked = self.is_asked
        self.is_heeded |= asked
        return asked

    @property
    def is_asked(self) -> bool:
        """True if this process was asked to stop, whether or not the work has seen it."""
        return self._received or deadline.is_over()

    @property
    def is_sent(self) -> bool:
        """True if a signal came, whatever conditions say."""
        return self._received

    def request(self, number: int = signal.SIGINT) -> None:
        """Ask the work to stop."""
        self._received, self.number = True, number

    def __enter__(self) -> Self:
        # Only the main thread may set handlers; in other threads (a notebook, a server) signals are left alone.
        if threading.current_thread() is threading.main_thread():
            heeded = [
                number for number in self.SIGNALS if signal.getsignal(number) is not signal.SIG_IGN
            ]  # as by nohup
            self._before = {number: signal.signal(number, self._handle) for number in heeded}
            outer = [getattr(handler, "__self__", None) for handler in self._before.values()]
            # Work around this one that saves itself does so, too, where a signal finds this one.
            self.is_heeded |= any(isinstance(one, StopSignal) and one.is_heeded for one in outer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._received and now - self._first < SAME_SIGNAL_SECONDS and ranks.processes() > 1:
            return
        if self._received:
            before = self._before.get(signal.Signals(number))
            if callable(before):
                before(number, frame)  # the command line's, which ignores the third
                return
            raise KeyboardInterrupt
        self._first = now
        self.request(number)
