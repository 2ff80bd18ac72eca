"""Stored network in OpenVINO, from decoded pixels to logits. Nothing here needs PyTorch.

OpenVINO works on one batch while the next is decoded.
"""

import os
from collections import deque
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from loupe.data.pixels.decode import UInt8Array
from loupe.data.processes import worker_count
from loupe.errors import RunStateError
from loupe.models.bundle_config import STORED_NETWORK, BundleConfig, StoredEngine, content_digest
from loupe.models.openvino_import import core, on_threads
from loupe.models.pixel_engine import Array

IN_FLIGHT = 2
BATCH_IMAGES = 32


class OpenVinoNetwork:
    """Network in OpenVINO's CPU plugin that takes decoded pixels.

    Args:
        files: the converted network.
        precision: precision of its convolutions and matrix products.
    """

    def __init__(self, files: tuple[bytes, bytes], precision: Literal["fp32", "bf16"]) -> None:
        network = core().read_model(files[0], files[1])
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "THROUGHPUT",
            **on_threads(threads()),
        }
        self._compiled = core().compile_model(network, "CPU", options)
        ends = (self._compiled.input(0), self._compiled.output(0))
        self.shapes = [str(end.get_partial_shape()) for end in ends]
        self.name = f"openvino-{precision}"
        self.batch_images = BATCH_IMAGES
        self.in_flight = IN_FLIGHT

    def run(self, pixels: Iterator[UInt8Array]) -> Iterator[Array]:
        return in_flight(self._compiled, pixels)


def in_flight(compiled: Any, inputs: Iterator[np.ndarray]) -> Iterator[Array]:
    """First output, float32, of a compiled network for each of its inputs, in order; two are computed at a time."""
    idle = [compiled.create_infer_request() for _ in range(IN_FLIGHT)]
    busy: deque[tuple[Any, np.ndarray]] = deque()
    for given in inputs:
        if not idle:
            request, outputs = _next_finished(busy)
            idle.append(request)
            yield outputs
        request = idle.pop()
        request.start_async({0: given}, share_inputs=True)
        busy.append((request, given))  # the input must live until the request is done
    while busy:
        yield _next_finished(busy)[1]


def _next_finished(busy: deque[tuple[Any, np.ndarray]]) -> tuple[Any, Array]:
    """Oldest request, once it is done, and its outputs."""
    request, _ = busy.popleft()
    request.wait()
    return request, np.array(request.get_output_tensor(0).data, dtype=np.float32)


def open_stored(folder: Path, config: BundleConfig) -> tuple[OpenVinoNetwork | None, str]:
    """Network of a bundle, or None with the reason if it has none or OpenVINO cannot run it here.

    Raises:
        RunStateError: its files are missing or damaged, or do not belong to config.json.
    """
    engine = config.engine
    if engine is None:
        return None, "the bundle has no network for OpenVINO"
    if not find_spec("openvino"):
        return None, "OpenVINO, which predicts faster, is not installed: pip install openvino"
    files = _read(folder, engine)
    try:
        network = OpenVinoNetwork(files, engine.precision)
    except Exception as error:  # its reader and its compiler raise classes of their own
        reason = " ".join(str(error).split())[:200]
        return None, f"OpenVINO cannot run the network of OpenVINO {engine.version} ({reason})"
    height_px, width_px = config.preprocessing.load_size
    wanted = [f"[?,{height_px},{width_px},{config.preprocessing.channels}]", f"[?,{len(config.classes)}]"]
    if network.shapes != wanted:
        found, needed = " and ".join(network.shapes), " and ".join(wanted)
        reason = f"{STORED_NETWORK[0]} has the shapes {found}, and config.json needs {needed}"
        raise RunStateError(f"{folder}: {reason}. {BundleConfig.REMEDY}")
    return network, ""


def _read(folder: Path, engine: StoredEngine) -> tuple[bytes, bytes]:
    try:
        description, weights = ((folder / name).read_bytes() for name in STORED_NETWORK)
    except OSError as error:
        raise RunStateError(f"{error.filename}: cannot be read ({error.strerror}). {BundleConfig.REMEDY}") from None
    if content_digest(description, weights) != engine.network_blake2b:
        raise RunStateError(
            f"{folder}: {' or '.join(STORED_NETWORK)} is damaged, or does not belong to config.json. Restore the files."
        )
    return description, weights


def threads() -> int:
    """Number of threads of PyTorch's default, without importing it."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(asked) if asked.isdecimal() and int(asked) else worker_count()
