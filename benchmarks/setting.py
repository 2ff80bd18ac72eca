"""What a benchmark ran on: the machine, and the commit."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def machine(threads: int) -> dict[str, Any]:
    """Which processor, how many cores, and whether it has hardware for bf16 matrices, on which the comparison turns."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = found.get("flags", "").split()
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return {
        "processor": found.get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "system": platform.system(),
        "python": platform.python_version(),
        "flags": {flag: flag in flags for flag in wanted} if flags else None,
    }


def commit() -> str:
    """The commit that was measured, marked where the working tree has changes."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=False).stdout.strip()

    changed = " with changes" if git("status", "--porcelain", "--", "../src", ".") else ""
    return (git("rev-parse", "--short", "HEAD") or "none yet") + changed
