"""Import of OpenVINO without its telemetry, which its converter would send to the network without asking.

Also its conversion of networks of PyTorch.
"""

import sys
import warnings
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

from loupe.openmp import cores

TELEMETRY = "openvino_telemetry"


class _Refusal(MetaPathFinder):
    """Finder that refuses OpenVINO's telemetry; OpenVINO then takes a stub of its own."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if name.partition(".")[0] == TELEMETRY:
            raise ModuleNotFoundError(f"{name} is not imported by Loupe", name=name)


def openvino() -> Any:
    """OpenVINO's package; where it was imported before, it is as the importer set it up.

    Raises:
        ImportError: it is not installed.
    """
    refusal = _Refusal()
    sys.meta_path.insert(0, refusal)
    try:
        return import_module("openvino")
    finally:
        sys.meta_path.remove(refusal)


def core() -> Any:
    """OpenVINO's core: one for the process, which lasts as long.

    The CPU plugin of a core gives its thread another stack for signal handlers, and takes it away at its end. Where two
    cores end in the order in which they began, the thread is left with a stack that is gone, and the next Ctrl-C ends
    the process with a segmentation fault (OpenVINO 2026.4.1).

    Raises:
        ImportError: OpenVINO is not installed.
    """
    openvino()
    return _core()


def on_threads(threads: int) -> dict[str, Any]:
    """Options that compile a network for so many threads.

    Where they are fewer than the cores, they are not bound to any: those of two processes with one thread each would be
    bound to the same core.
    """
    return {"INFERENCE_NUM_THREADS": threads, **({} if threads >= cores() else {"ENABLE_CPU_PINNING": False})}


def traced_model(module: Any, example: Any) -> Any:
    """OpenVINO's model of a module of PyTorch in evaluation mode, for any number of inputs like the example.

    It is traced once. The check that PyTorch makes by tracing it again would take as long as the rest.

    Args:
        module: module of one input, a tensor [B, ...].
        example: input.

    Raises:
        ImportError: OpenVINO is not installed.
        Exception: of a class of the converter's own, if it cannot convert the module.
    """
    import torch  # not needed to run a converted network

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the converter uses deprecated parts of PyTorch
        traced = torch.jit.trace(module.eval(), example.clone(), strict=False, check_trace=False)  # type: ignore[no-untyped-call]
        network = openvino().convert_model(traced, example_input=example.clone())
    network.reshape([-1, *example.shape[1:]])
    return network


@cache
def _core() -> Any:
    return openvino().Core()
