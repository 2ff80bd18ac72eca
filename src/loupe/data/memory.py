"""Free memory of the machine, and the resulting budget for raw pixels."""

import ctypes
import mmap
import os
import sys
from pathlib import Path

_UNKNOWN_BYTES = 8 * 2**30


def default_budget() -> int:
    """Largest size of raw pixels in bytes: half of the free memory.

    Where the free memory is unknown, half of all memory; where that is unknown too, half of 8 GiB. The budget includes
    memory-mapped pixels: they are read through free memory, and otherwise from the disk in every epoch.
    """
    return free_bytes() // 2


def free_bytes() -> int:
    """Bytes available without swapping, within the limit of the container, if any."""
    if sys.platform == "win32":
        return _windows_bytes("free")
    free = _linux_bytes() or _all_bytes() or _UNKNOWN_BYTES
    limit = _container_bytes()
    return free if limit is None else min(free, limit)


def can_allocate(size: int) -> bool:
    """True if this process can have so many bytes more now, by its own limits and those of container and machine."""
    if free_bytes() < size:
        return False
    try:
        if sys.platform == "win32":
            mmap.mmap(-1, size).close()
        else:
            mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, ValueError, MemoryError):
        return False
    return True


def total_bytes() -> int | None:
    """Bytes of memory of the machine; None if unknown."""
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
    """Bytes left in the control group (version 2) of the container; None without a limit.

    Inactive file pages count as free, as in MemAvailable.
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
