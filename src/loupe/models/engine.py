"""Engines that run frozen blocks: OpenVINO on a CPU if it is installed, PyTorch otherwise.

Both give the same predictions. OpenVINO works on one batch while the next is being read and augmented, and so does an
NVIDIA GPU, where the CPU does not wait for an answer before it hands over the next batch.
"""

import hashlib
import warnings
from collections import deque
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from loupe.devices import Compute

Array = np.ndarray[Any, np.dtype[Any]]
IN_FLIGHT = 2


class Engine(Protocol):
    """`name` says what computes, and in which precision."""

    name: str

    def run(self, inputs: Iterator[Tensor]) -> Iterator[Array]:
        """float32 [B, ...] for each batch of inputs [B, 3, H, W], in their order; maps as [B, H, W, C]."""


def engine_name(compute: Compute) -> str:
    """Name and version of the engine that will be used, without building it."""
    if compute.device.type == "cpu" and compute.precision != "fp16" and find_spec("openvino"):
        return f"openvino {version('openvino')}"
    return f"torch {torch.__version__}"


def engine(blocks: nn.Sequential, compute: Compute, size_px: int) -> tuple[Engine, str]:
    """The fastest there is for these blocks, and a word about why it is not OpenVINO where it might be."""
    if compute.device.type != "cpu" or compute.precision == "fp16":
        return TorchEngine(blocks, compute), ""
    try:
        import openvino  # noqa: F401  # an extra, and it takes a second to import
    except ImportError:
        return TorchEngine(blocks, compute), "pip install openvino lets OpenVINO compute it, which is faster"
    try:
        return OpenVinoEngine(blocks, compute, size_px), ""
    except Exception as error:  # its converter and its compiler raise classes of their own
        reason = " ".join(str(error).split())[:200]
        return TorchEngine(blocks, compute), f"OpenVINO cannot run these blocks ({reason}): PyTorch does"


class Engines:
    """The engine that was built last, to be had again: tracing and compiling a network takes seconds."""

    def __init__(self) -> None:
        self._built: dict[tuple[str, Compute, int], tuple[Engine, str]] = {}

    def of(self, blocks: nn.Sequential, compute: Compute, size_px: int) -> tuple[Engine, str]:
        """Engine for these blocks, weights and precision; built again only if one of them has changed."""
        key = (digest_of(blocks), compute, size_px)
        if key not in self._built:
            self._built.clear()  # it holds the weights once more
            self._built[key] = engine(blocks, compute, size_px)
        return self._built[key]


def digest_of(blocks: nn.Sequential) -> str:
    """Of blocks: their layers, weights and statistics."""
    found = hashlib.sha256(repr(blocks).encode())
    for name, value in blocks.state_dict().items():
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


class TorchEngine:
    """PyTorch, in the precision of the run."""

    def __init__(self, blocks: nn.Module, compute: Compute) -> None:
        self.blocks = blocks
        self.compute = compute
        self.name = f"pytorch-{compute.precision}"

    def run(self, inputs: Iterator[Tensor]) -> Iterator[Array]:
        on_gpu = self.compute.device.type == "cuda"
        busy: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()
        for x_BCHW in inputs:
            busy.append(self._begun(x_BCHW))
            if len(busy) == (IN_FLIGHT if on_gpu else 1):
                yield _arrived(*busy.popleft())
        while busy:
            yield _arrived(*busy.popleft())

    def _begun(self, x_BCHW: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        """The answer, and on CUDA the event of its arrival: it is still on its way to pinned memory there."""
        with torch.inference_mode(), self.compute.autocast():
            made = self.blocks(x_BCHW)
        made = made.float() if made.is_floating_point() else made
        if self.compute.device.type != "cuda":
            return made.cpu(), None
        rows = made.to("cpu", non_blocking=True)
        arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrival.record(torch.cuda.current_stream(self.compute.device))
        return rows, arrival


def _arrived(rows: Tensor, arrival: torch.cuda.Event | None) -> Array:
    if arrival is not None:
        arrival.synchronize()
    return _rows_last(rows.numpy())


class OpenVinoEngine:
    """OpenVINO's CPU plugin, with as many threads as PyTorch has."""

    def __init__(self, blocks: nn.Sequential, compute: Compute, size_px: int) -> None:
        import openvino as ov

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its converter uses parts of PyTorch that are on their way out
            network = ov.convert_model(blocks, example_input=torch.zeros(1, 3, size_px, size_px))
        network.reshape([-1, 3, size_px, size_px])
        prepared = ov.preprocess.PrePostProcessor(network)
        prepared.input().tensor().set_layout(ov.Layout("NHWC"))  # how our batches lie in memory
        prepared.input().model().set_layout(ov.Layout("NCHW"))
        precision = "bf16" if compute.precision == "bf16" else "f32"
        options = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        self._compiled = ov.Core().compile_model(prepared.build(), "CPU", options)
        self.name = f"openvino-{precision}"

    def run(self, inputs: Iterator[Tensor]) -> Iterator[Array]:
        idle = [self._compiled.create_infer_request() for _ in range(IN_FLIGHT)]
        busy: deque[tuple[Any, Array]] = deque()
        for x_BCHW in inputs:
            if not idle:
                request, rows = _finished(busy)
                idle.append(request)
                yield rows
            request = idle.pop()
            x_BHWC = np.ascontiguousarray(x_BCHW.permute(0, 2, 3, 1).numpy())
            request.start_async({0: x_BHWC}, share_inputs=True)
            busy.append((request, x_BHWC))  # the input must live until the answer is there
        while busy:
            yield _finished(busy)[1]


def _finished(busy: deque[tuple[Any, Array]]) -> tuple[Any, Array]:
    request, _ = busy.popleft()
    request.wait()
    return request, _rows_last(np.array(request.get_output_tensor(0).data, dtype=np.float32))


def _rows_last(made: Array) -> Array:
    """Maps as they lie in a channels-last batch."""
    return made.transpose(0, 2, 3, 1) if made.ndim == 4 else made
