"""What to know when something is slow or broken: what is installed, what this machine has, and how fast it is.

Each check answers with a finding, a remedy beside it where something is wrong. Nothing asks the network unless it is
told to, nothing but a nameless temporary file is written, and no name of a user or computer is in any finding, so that
all of it can be put into a report of a defect.
"""

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from loupe import __version__, provenance
from loupe.cache import cache_folder
from loupe.data.memory import free_bytes, total_bytes
from loupe.doctor import installation
from loupe.log import size_text

State = Literal["ok", "warning", "broken"]
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "sve")
LOADED = ("torch", "torchvision", "timm")
GIB = 2**30
LITTLE_MEMORY_BYTES = 2 * GIB
LITTLE_DISK_BYTES = 5 * GIB
NO_DISK_BYTES = GIB // 8  # a run's checkpoints, model and report take tens of megabytes
CUDA_REMEDY = "Install a PyTorch that fits this GPU: https://pytorch.org/get-started/locally"


@dataclass(frozen=True)
class Finding:
    """What a check found, in words; `remedy` says what to do about it, `data` is the same for scripts."""

    name: str
    value: str
    state: State = "ok"
    remedy: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "state": self.state, "value": self.value, "remedy": self.remedy, **self.data}


Check = Callable[[], Iterator[Finding]]


def checks(runs: Path, *, network: bool = False) -> dict[str, Check]:
    """What is looked at, in order; `runs` is the folder that holds the runs. `doctor_speed` has what is measured."""
    found: dict[str, Check] = {
        "versions": versions,
        "load": load,  # before anything here makes one
        "libraries": libraries,
        "processor": processor,
        "threads": threads,
        "devices": devices,
        "memory": memory,
        "cache": lambda: folder("cache", cache_folder(), "Set LOUPE_CACHE to another folder"),
        "runs": lambda: folder("runs", runs, "Choose another folder with --output"),
    }
    return found | {"hub": hub} if network else found


def guarded(name: str, check: Check) -> Iterator[Finding]:
    """A check's findings without personal names; one that says what went wrong where the check itself fails."""
    try:
        for finding in check():
            yield replace(finding, value=nameless(finding.value), remedy=nameless(finding.remedy))
    except Exception as error:  # whatever it is: finding out is what this is for
        reason = nameless(" ".join(str(error).split())[:300])
        remedy = "Install Loupe anew in an empty environment; where that does not help, report this output."
        yield Finding(name, f"{type(error).__name__}: {reason}", "broken", remedy)


def nameless(text: str) -> str:
    """The text with the home folder as `~`, and its name nowhere as a part of a path."""
    home = Path("~").expanduser()
    if not home.name:  # of a user without one, or the root folder
        return text
    return text.replace(str(home), "~").replace(f"{os.sep}{home.name}{os.sep}", f"{os.sep}…{os.sep}")


def versions() -> Iterator[Finding]:
    """What is installed; openvino is an extra, and missing any other is a broken installation."""
    found: dict[str, str | None] = {"loupe": __version__, "python": platform.python_version()}
    found |= {name: provenance.installed(name) for name in provenance.PACKAGES}
    openvino = found.pop("openvino")
    missing = [name for name, number in found.items() if number is None]
    said = ", ".join(f"{name} {number or 'missing'}" for name, number in found.items())
    remedy = f"Install what is missing: pip install {' '.join(missing)}" if missing else ""
    yield Finding(
        "versions", said, "broken" if missing else "ok", remedy, {"versions": {**found, "openvino": openvino}}
    )
    if (other := installation.other_project()) is not None:
        remedy = f"Both install a package named loupe: {installation.REMEDY}."
        yield Finding("other loupe", f"another project named loupe ({other}) is installed", "broken", remedy)
    yield Finding("system", platform.platform())
    gives = "It computes frozen networks faster on a CPU: pip install openvino"
    yield Finding("openvino", openvino or "not installed (an extra)", remedy="" if openvino else gives)


def libraries() -> Iterator[Finding]:
    """Whether the large libraries can be loaded: torch and torchvision of two releases cannot."""
    for name in LOADED:
        try:
            import_module(name)
        except Exception as error:
            remedy = "Install releases that belong together: pip install --force-reinstall torch torchvision timm"
            reason = " ".join(str(error).split())[:300]
            yield Finding("libraries", f"{name} cannot be loaded: {type(error).__name__}: {reason}", "broken", remedy)


def load() -> Iterator[Finding]:
    """What else is running; Windows does not say."""
    if not hasattr(os, "getloadavg"):
        return
    busy, cores = os.getloadavg()[0], os.cpu_count() or 1
    warn = busy > cores
    remedy = "Other work is running: everything here takes longer than it would alone." if warn else ""
    yield Finding("load", f"{busy:.1f} on {cores} cores", "warning" if warn else "ok", remedy, {"load": busy})


def processor() -> Iterator[Finding]:
    """The processor, and which of its abilities PyTorch uses."""
    import torch

    from loupe.devices import processor_flags

    features = [name for name in FEATURES if name in processor_flags()]
    used = torch.backends.cpu.get_cpu_capability()
    said = f"{provenance.processor()}; PyTorch uses {used}" + (f"; it has {', '.join(features)}" if features else "")
    idle = used == "DEFAULT" and "avx2" in features
    remedy = "PyTorch leaves AVX2 unused. Is ATEN_CPU_CAPABILITY set? Unset it." if idle else ""
    yield Finding("processor", said, "warning" if idle else "ok", remedy, {"features": features, "capability": used})


def threads() -> Iterator[Finding]:
    """How many cores are used, and what keeps PyTorch from using more or makes it use too many."""
    import torch

    from loupe.devices import cores

    number, allowed, quota = torch.get_num_threads(), cores(), container_cpus()
    limit = os.environ.get("OMP_NUM_THREADS")
    remedy = ""
    # PyTorch takes one thread for each core, which may count as two: half of them is not too few.
    if limit and number < allowed and (number == 1 or number < allowed // 2):
        remedy = f"OMP_NUM_THREADS={limit} leaves {allowed - number} of {allowed} cores idle: unset it."
    elif quota is not None and number > quota + 0.5:
        remedy = f"The container may use {quota:g} CPUs, too few for {number} threads: set OMP_NUM_THREADS={quota:.0f}."
    data = {"threads": number, "cores": allowed, "all_cores": os.cpu_count(), "container_cpus": quota}
    said = f"{number} {'thread' if number == 1 else 'threads'} on {allowed} of {os.cpu_count()} cores"
    said += f"; OMP_NUM_THREADS={limit}" if limit else ""
    yield Finding("threads", said, "warning" if remedy else "ok", remedy, data)


def container_cpus() -> float | None:
    """How many CPUs' time the control group of this container (version 2) allows; None where there is no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def devices() -> Iterator[Finding]:
    """The GPUs that PyTorch finds, and a driver without a PyTorch that can use it."""
    import torch

    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        yield _gpu(number)
    if torch.backends.mps.is_available():
        yield Finding("mps", "the GPU of this Mac")
    elif not torch.cuda.is_available():
        driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
        why = (
            "an NVIDIA driver is here, but this PyTorch finds no GPU"
            if driver
            else "none found: training is on the CPU"
        )
        yield Finding(
            "gpu", why, "warning" if driver else "ok", CUDA_REMEDY if driver else "", {"cuda": torch.version.cuda}
        )


def _gpu(number: int) -> Finding:
    import torch

    about = torch.cuda.get_device_properties(number)
    free = torch.cuda.mem_get_info(number)[0]
    built = {
        name.removeprefix("sm_").rstrip("af")[:-1] for name in torch.cuda.get_arch_list() if name.startswith("sm_")
    }
    known = torch.version.cuda is None or str(about.major) in built  # of other makers' chips the list says otherwise
    return Finding(
        f"cuda:{number}",
        f"{about.name}, {size_text(about.total_memory)} ({size_text(free)} free), compute capability "
        f"{about.major}.{about.minor}, CUDA {torch.version.cuda}",
        "ok" if known else "broken",
        "" if known else f"This PyTorch has no code for its compute capability. {CUDA_REMEDY}",
        {"memory_bytes": about.total_memory, "free_bytes": free, "capability": f"{about.major}.{about.minor}"},
    )


def memory() -> Iterator[Finding]:
    """Half of what is free is the budget for pixels that are decoded once."""
    free, total = free_bytes(), total_bytes()
    of = f" of {size_text(total)}" if total else ""
    little = free < LITTLE_MEMORY_BYTES
    remedy = "Close other programs, or train with a smaller --batch-size and smaller images." if little else ""
    data = {"free_bytes": free, "total_bytes": total}
    yield Finding("memory", f"{size_text(free)}{of} free", "warning" if little else "ok", remedy, data)


def folder(name: str, place: Path, otherwise: str) -> Iterator[Finding]:
    """Whether a folder can be written, or made where it is not there yet, and how much fits onto its disk."""
    existing = next(path for path in [place.absolute(), *place.absolute().parents] if path.exists())
    free = shutil.disk_usage(existing).free
    data = {"free_bytes": free}
    said = f"{place}, {size_text(free)} free"
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        yield Finding(name, f"{said}, cannot be written: {error.strerror or error}", "broken", f"{otherwise}.", data)
        return
    state: State = "broken" if free < NO_DISK_BYTES else "warning" if free < LITTLE_DISK_BYTES else "ok"
    remedy = f"{otherwise}, on a disk with more room; or make room: loupe cache --clear all." if state != "ok" else ""
    yield Finding(name, said, state, remedy, data)


def hub() -> Iterator[Finding]:
    """Whether pretrained weights can be fetched. It asks the network, and fetches none."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url("timm/resnet18.a1_in1k", "model.safetensors"), timeout=10)
    except Exception as error:  # its own classes, its HTTP library's, and the system's
        remedy = "Without it, give pretrained weights as a file: --weights FILE.safetensors. Is a proxy needed, or "
        remedy += "HF_HUB_OFFLINE set?" if "HF_HUB_OFFLINE" in os.environ else "HF_ENDPOINT?"
        yield Finding("hub", f"timm's weights cannot be reached ({type(error).__name__})", "warning", remedy)
        return
    yield Finding("hub", "timm's weights can be reached")
