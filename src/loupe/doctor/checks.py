"""Checks of the installation and the machine: versions, devices, threads, memory, disks.

Each check yields findings, with a suggested fix for each problem. The network is used only if asked for, and nothing
but an unnamed temporary file is written. No finding has the name of a user or computer, so that the output can be put
into a bug report.
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

from loupe import __version__, openmp, provenance
from loupe.cache import cache_folder
from loupe.data.memory import free_bytes, total_bytes
from loupe.doctor import installation
from loupe.errors import counted
from loupe.log import size_text
from loupe.offline import offline_variable

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
    """Finding of a check: `value` in words, `remedy` as the suggested fix, `data` for scripts."""

    name: str
    value: str
    state: State = "ok"
    remedy: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "state": self.state, "value": self.value, "remedy": self.remedy, **self.data}


Check = Callable[[], Iterator[Finding]]


def checks(runs: Path, *, network: bool = False) -> dict[str, Check]:
    """Checks by name, in order; `runs` is the folder of the runs. `speed.py` has the measurements."""
    found: dict[str, Check] = {
        "versions": versions,
        "load": load,  # before anything here makes one
        "libraries": libraries,
        "processor": processor,
        "threads": threads,
        "waiting": waiting,
        "devices": devices,
        "choices": choices,
        "weights": weights,
        "memory": memory,
        "cache": lambda: folder("cache", cache_folder(), "Set LOUPE_CACHE to another folder"),
        "runs": lambda: folder("runs", runs, "Choose another folder with --output"),
    }
    return found | {"hub": hub} if network else found


def guarded(name: str, check: Check) -> Iterator[Finding]:
    """Findings of a check without personal names; one finding with the error if the check itself fails."""
    try:
        for finding in check():
            yield replace(finding, value=nameless(finding.value), remedy=nameless(finding.remedy))
    except Exception as error:  # whatever it is: finding out is what this is for
        reason = nameless(" ".join(str(error).split())[:300])
        remedy = "Install Loupe in a new environment. If that does not help, report this output."
        yield Finding(name, f"{type(error).__name__}: {reason}", "broken", remedy)


def nameless(text: str) -> str:
    """The text with the home folder as `~`, and its name nowhere as a part of a path."""
    home = Path("~").expanduser()
    if not home.name:  # of a user without one, or the root folder
        return text
    return text.replace(str(home), "~").replace(f"{os.sep}{home.name}{os.sep}", f"{os.sep}…{os.sep}")


def versions() -> Iterator[Finding]:
    """Installed versions; openvino is an extra, and any other that is missing is a broken installation."""
    found: dict[str, str | None] = {"loupe": __version__, "python": platform.python_version()}
    found |= {name: provenance.installed(name) for name in provenance.PACKAGES}
    openvino = found.pop("openvino")
    missing = [name for name, number in found.items() if number is None]
    said = ", ".join(f"{name} {number or 'missing'}" for name, number in found.items())
    remedy = f"Install the missing packages: pip install {' '.join(missing)}" if missing else ""
    yield Finding(
        "versions", said, "broken" if missing else "ok", remedy, {"versions": {**found, "openvino": openvino}}
    )
    if (other := installation.other_project()) is not None:
        remedy = f"Both install a package named loupe: {installation.REMEDY}."
        yield Finding("other loupe", f"another project named loupe ({other}) is installed", "broken", remedy)
    yield Finding("system", platform.platform())
    gives = "For faster frozen networks on a CPU: pip install openvino"
    yield Finding("openvino", openvino or "not installed (an extra)", remedy="" if openvino else gives)


def libraries() -> Iterator[Finding]:
    """Large libraries that cannot be loaded, such as torch and torchvision of different releases."""
    for name in LOADED:
        try:
            import_module(name)
        except Exception as error:
            remedy = "Install matching releases: pip install --force-reinstall torch torchvision timm"
            reason = " ".join(str(error).split())[:300]
            yield Finding("libraries", f"{name} cannot be loaded: {type(error).__name__}: {reason}", "broken", remedy)


def load() -> Iterator[Finding]:
    """Load of the machine; unknown on Windows."""
    if not hasattr(os, "getloadavg"):
        return
    busy, cores = os.getloadavg()[0], os.cpu_count() or 1
    warn = busy > cores
    remedy = (
        "Other programs are running: measurements and training take longer than on an idle machine." if warn else ""
    )
    yield Finding(
        "load", f"{busy:.1f} on {counted(cores, 'core')}", "warning" if warn else "ok", remedy, {"load": busy}
    )


def processor() -> Iterator[Finding]:
    """Processor, and the instruction sets that PyTorch uses."""
    import torch

    from loupe.devices import processor_flags

    features = [name for name in FEATURES if name in processor_flags()]
    used = torch.backends.cpu.get_cpu_capability()
    said = f"{provenance.processor()}; PyTorch uses {used}" + (f"; it has {', '.join(features)}" if features else "")
    idle = used == "DEFAULT" and "avx2" in features
    remedy = "PyTorch does not use AVX2. Unset ATEN_CPU_CAPABILITY if it is set." if idle else ""
    yield Finding("processor", said, "warning" if idle else "ok", remedy, {"features": features, "capability": used})


def threads() -> Iterator[Finding]:
    """Number of threads, and what makes PyTorch use too few or too many."""
    import torch

    from loupe.openmp import cores

    number, allowed, quota = torch.get_num_threads(), cores(), container_cpus()
    limit = os.environ.get("OMP_NUM_THREADS")
    remedy = ""
    # PyTorch takes one thread for each core, which may count as two: half of them is not too few.
    if limit and number < allowed and (number == 1 or number < allowed // 2):
        remedy = f"OMP_NUM_THREADS={limit} leaves {allowed - number} of {counted(allowed, 'core')} idle: unset it."
    elif quota is not None and number > quota + 0.5:
        remedy = f"The container is limited to {quota:g} CPUs, too few for {counted(number, 'thread')}: "
        remedy += f"set OMP_NUM_THREADS={quota:.0f}."
    data = {"threads": number, "cores": allowed, "all_cores": os.cpu_count(), "container_cpus": quota}
    said = f"{counted(number, 'thread')} on {allowed} of {counted(os.cpu_count() or 1, 'core')}"
    said += f"; OMP_NUM_THREADS={limit}" if limit else ""
    yield Finding("threads", said, "warning" if remedy else "ok", remedy, data)


def waiting() -> Iterator[Finding]:
    """Time for which threads of OpenMP spin before they sleep, and who has set it."""
    found, set_by = openmp.waiting(), openmp.set_by()
    said = ", ".join(f"{name}={value}" for name, value in found.items())
    said = f"{said}, set by {set_by}" if said else "threads spin while they wait, as OpenMP's library does by itself"
    spins = set_by == "the user" and found.get("OMP_WAIT_POLICY", "").strip().lower() == "active"
    remedy = "Training beside other programs is several times slower: unset OMP_WAIT_POLICY." if spins else ""
    data = {"waiting": found, "set_by": set_by}
    yield Finding("waiting", said, "warning" if spins else "ok", remedy, data)


def choices() -> Iterator[Finding]:
    """Engine of frozen blocks, and the precisions that were measured for this machine."""
    import torch

    from loupe import settled
    from loupe.devices import Compute, choose_device
    from loupe.models.engine import engine_gains_from_bf16, engine_name

    device = choose_device("auto")
    precision = "bf16 where features agree, else fp32" if engine_gains_from_bf16(device) else "fp32"
    said = engine_name(Compute(device, "fp32"))
    yield Finding("frozen blocks", f"{said}, {precision if device.type == 'cpu' else 'the precision of the run'}")
    found = list(settled.choices(device))
    for choice in found:
        work = f"{choice.work['network']}, {choice.work['part']}, {choice.work['size']} px"
        said = f"{work}: {choice.reason}, settled on {choice.date[:10]}"
        yield Finding("settled", said, data={"work": choice.work, "chosen": choice.chosen, "date": choice.date})
    if not found:
        at = f"{device.type}, {counted(torch.get_num_threads(), 'thread')}"
        yield Finding("settled", f"no precision has been measured yet ({at}): the first training of a network does")


def weights() -> Iterator[Finding]:
    """Pretrained weights on this machine, and files in the folders of LOUPE_WEIGHTS that cannot be used."""
    from loupe.models.at_hand import survey

    found = survey()
    for one in found.found:
        data = {"backbone": one.backbone, "weights": one.weights, "parameters": one.parameters}
        size = f"{one.parameters / 1e6:.1f} million parameters"
        yield Finding("weights", f"{one.backbone}, {size}: {one.file}", data=data)
    if not found.found:
        yield Finding(
            "weights",
            "no pretrained weights on this machine: they are downloaded when they are first used",
            remedy="For files that are elsewhere on this machine: set LOUPE_WEIGHTS to their folder.",
        )
    for problem in found.problems:
        yield Finding("weights", problem, "warning", "Restore or remove it.")


def container_cpus() -> float | None:
    """CPU limit of the control group (version 2) of this container; None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def devices() -> Iterator[Finding]:
    """GPUs that PyTorch finds, and a driver without a PyTorch that can use it."""
    import torch

    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        yield _gpu(number)
    if torch.backends.mps.is_available():
        yield Finding("mps", "GPU of this Mac")
    elif not torch.cuda.is_available():
        driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
        why = (
            "an NVIDIA driver is installed, but this PyTorch finds no GPU"
            if driver
            else "none found: training runs on the CPU"
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
        "" if known else f"This PyTorch does not support its compute capability. {CUDA_REMEDY}",
        {"memory_bytes": about.total_memory, "free_bytes": free, "capability": f"{about.major}.{about.minor}"},
    )


def memory() -> Iterator[Finding]:
    """Free memory, half of which is the budget for decoded pixels."""
    free, total = free_bytes(), total_bytes()
    of = f" of {size_text(total)}" if total else ""
    little = free < LITTLE_MEMORY_BYTES
    remedy = "Close other programs, or use a smaller --batch-size or smaller images." if little else ""
    data = {"free_bytes": free, "total_bytes": total}
    yield Finding("memory", f"{size_text(free)}{of} free", "warning" if little else "ok", remedy, data)


def folder(name: str, place: Path, otherwise: str) -> Iterator[Finding]:
    """Free space of a folder's disk, and whether the folder can be written or created."""
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
    remedy = f"{otherwise}, on a disk with more space; or free space: loupe cache --clear all." if state != "ok" else ""
    yield Finding(name, said, state, remedy, data)


def hub() -> Iterator[Finding]:
    """Reachability of pretrained weights; asks the network for at most 5 seconds, and downloads none."""
    from loupe.models.hub import DownloadError, HubFile, endpoint, forget_failures

    forget_failures()
    try:
        HubFile("timm/resnet18.a1_in1k", "model.safetensors").ask()
    except DownloadError as error:
        remedy = "Give pretrained weights as a file: --weights FILE.safetensors. "
        named = offline_variable()
        remedy += f"Or unset {named.partition('=')[0]}." if named else "Or set a proxy, or HF_ENDPOINT."
        yield Finding("hub", f"not asked: {named} is set" if named else str(error), "warning", remedy)
        return
    yield Finding("hub", f"weights of timm can be downloaded from {endpoint()}")
