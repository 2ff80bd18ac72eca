"""How much memory is free, and the budget for raw pixels that follows from it."""

import ctypes
import os
import sys
from pathlib import Path

_UNKNOWN_BYTES = 8 * 2**30


def default_budget() -> int:
    """Bytes of raw pixels to keep at most: half of the memory that is free now; of all of it where what is free is
    unknown.

    It holds for memory-mapped pixels too: they are read through free memory, and a set that does not fit there would
    be read from the disk in every epoch. Raises nothing: a system that tells nothing counts as one of 8 GiB.
    """
    return free_bytes() // 2


def free_bytes() -> int:
    """Bytes that new data can take without swapping, within the limit of the container, if there is one."""
    if sys.platform == "win32":
        return _windows_bytes("free")
    free = _linux_bytes() or _all_bytes() or _UNKNOWN_BYTES
    limit = _container_bytes()
    return free if limit is None else min(free, limit)


def total_bytes() -> int | None:
    """Bytes of memory of this machine; None where the system does not tell."""
    return _windows_bytes("all") if sys.platform == "win32" else _all_bytes()


def _linux_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _all_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        return None


def _container_bytes() -> int | None:
    """What the control group of this container (version 2) still allows; None where there is no limit.

    Pages of files that nobody uses count as free, as they do in MemAvailable.
    """
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        pages = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        return None if limit == "max" else max(0, int(limit) - used + int(pages.get("inactive_file", 0)))
    except (OSError, ValueError):
        return None


def _windows_bytes(which: str) -> int:
    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("all", "free", "c", "d", "e", "f", "g")),
        )

    status = Status(length=ctypes.sizeof(Status))
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009 - absent elsewhere, where mypy reads this too
    return int(getattr(status, which)) if kernel.GlobalMemoryStatusEx(ctypes.byref(status)) else _UNKNOWN_BYTES
