"""Engines that run frozen blocks: OpenVINO on a CPU if it is installed, PyTorch otherwise.

Both give the same predictions. OpenVINO, and PyTorch on an NVIDIA GPU, work on one batch while the CPU reads and
augments the next one.
"""

import copy
import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from loupe.config.size import Size
from loupe.devices import Compute, has_bf16_matrix_units, openvino_gains_from_bf16
from loupe.models.openvino_import import core, on_threads, openvino, traced_model
from loupe.models.openvino_network import IN_FLIGHT, in_flight
from loupe.models.pixel_engine import Array

SHARED_BYTES = 2**29  # of the weights of the engines that the parts of a process share


class Engine(Protocol):
    """Engine that runs blocks; `name` has its library and its precision."""

    name: str

    def run(self, inputs: Iterator[Tensor]) -> Iterator[Array]:
        """Outputs, float32 [B, ...], for each batch of inputs [B, 3, H, W], in order; maps as [B, H, W, C]."""


def engine_name(compute: Compute) -> str:
    """Name and version of the engine that will be used, without building it."""
    if compute.device.type == "cpu" and compute.precision != "fp16" and find_spec("openvino"):
        return f"openvino {version('openvino')}"
    return f"torch {torch.__version__}"


def engine_gains_from_bf16(device: torch.device) -> bool:
    """True for a CPU on which the engine that will be used is faster in bf16 than in fp32."""
    if engine_name(Compute(device, "bf16")).startswith("openvino"):
        return openvino_gains_from_bf16(device)
    return has_bf16_matrix_units(device)


def engine(
    blocks: nn.Sequential,
    compute: Compute,
    size: Size,
    channels: int = 3,
    convert: Callable[[], Any] | None = None,
) -> tuple[Engine, str]:
    """Build the fastest engine for these blocks; also return the reason if OpenVINO cannot be used on a CPU.

    Args:
        convert: source of OpenVINO's model of the blocks; None: they are traced.
    """
    if compute.device.type != "cpu" or compute.precision == "fp16":
        return TorchEngine(blocks, compute), ""
    try:
        openvino()  # an extra, imported where it is used
    except ImportError:
        return TorchEngine(blocks, compute), "OpenVINO is faster: pip install openvino"
    try:
        return OpenVinoEngine(blocks, compute, size, channels, convert), ""
    except Exception as error:  # its converter and its compiler raise classes of their own
        reason = " ".join(str(error).split())[:200]
        return TorchEngine(blocks, compute), f"OpenVINO cannot run these blocks ({reason})"


class Engines:
    """Cache of the last engine: tracing and compiling a network takes seconds.

    Within `shared_engines` it holds the last few, of all parts of the process.
    """

    def __init__(self) -> None:
        self._own = EngineStore(most_bytes=0)

    def of(self, blocks: nn.Sequential, compute: Compute, size: Size, channels: int = 3) -> tuple[Engine, str]:
        """Engine for these blocks, weights and precision; built again only if one of them has changed."""
        return (_shared[-1] if _shared else self._own).of(blocks, compute, size, channels)


@dataclass
class EngineStore:
    """Engines in the order of their last use, and the last network that was converted.

    Attributes:
        most_bytes: most bytes of the weights of all engines together; the last one is always kept.
    """

    most_bytes: int
    _built: OrderedDict[tuple[Any, ...], tuple[Engine, str]] = field(default_factory=OrderedDict)
    _bytes: dict[tuple[Any, ...], int] = field(default_factory=dict)
    _converted: tuple[tuple[Any, ...], Any] | None = None

    def of(self, blocks: nn.Sequential, compute: Compute, size: Size, channels: int) -> tuple[Engine, str]:
        """Engine for these blocks, weights and precision."""
        work = (digest_of(blocks), size, channels)
        key = (*work, compute, torch.get_num_threads())
        if key not in self._built:
            needed = sum(value.numel() * value.element_size() for value in blocks.state_dict().values())
            while self._built and needed + sum(self._bytes.values()) > self.most_bytes:
                del self._bytes[self._built.popitem(last=False)[0]]
            if self.most_bytes:  # an engine may refer to the weights of its blocks, which a later training would change
                blocks = copy.deepcopy(blocks)
            self._built[key] = engine(blocks, compute, size, channels, lambda: self._network(work, blocks))
            self._bytes[key] = needed
        self._built.move_to_end(key)
        return self._built[key]

    def _network(self, work: tuple[Any, ...], blocks: nn.Sequential) -> Any:
        """OpenVINO's model of blocks, kept for another precision."""
        if not self.most_bytes:
            return traced_blocks(blocks, *work[1:])
        if self._converted is None or self._converted[0] != work:
            self._converted = (work, traced_blocks(blocks, *work[1:]))
        return self._converted[1].clone()


_shared: list[EngineStore] = []


@contextmanager
def shared_engines() -> Iterator[None]:
    """Let all caches of engines in this process be one, as for many trainings on the same frozen blocks."""
    _shared.append(EngineStore(SHARED_BYTES))
    try:
        yield
    finally:
        _shared.pop()


def digest_of(blocks: nn.Sequential) -> str:
    """Hash of blocks: layers, weights and statistics."""
    digest = hashlib.sha256(repr(blocks).encode())
    for name, value in blocks.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class TorchEngine:
    """Engine that runs blocks in PyTorch."""

    def __init__(self, blocks: nn.Module, compute: Compute) -> None:
        self.blocks = blocks
        self.compute = compute
        self.name = f"pytorch-{compute.precision}"

    def run(self, inputs: Iterator[Tensor]) -> Iterator[Array]:
        on_gpu = self.compute.device.type == "cuda"
        busy: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()
        for x_BCHW in inputs:
            busy.append(self._start(x_BCHW))
            if len(busy) == (IN_FLIGHT if on_gpu else 1):
                yield _finish(*busy.popleft())
        while busy:
            yield _finish(*busy.popleft())

    def _start(self, x_BCHW: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        """Run the blocks; on CUDA, return before the copy to the CPU has arrived, with the event of its arrival."""
        with torch.inference_mode(), self.compute.autocast():
            outputs = self.blocks(x_BCHW)
        outputs = outputs.float() if outputs.is_floating_point() else outputs
        if self.compute.device.type != "cuda":
            return outputs.cpu(), None
        rows = outputs.to("cpu", non_blocking=True)
        arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrival.record(torch.cuda.current_stream(self.compute.device))
        return rows, arrival


def _finish(rows: Tensor, arrival: torch.cuda.Event | None) -> Array:
    """Outputs of a batch, once they have arrived on the CPU."""
    if arrival is not None:
        arrival.synchronize()
    return _channels_last(rows.numpy())


class OpenVinoEngine:
    """Engine that runs blocks in OpenVINO's CPU plugin, with as many threads as PyTorch."""

    def __init__(
        self,
        blocks: nn.Sequential,
        compute: Compute,
        size: Size,
        channels: int = 3,
        convert: Callable[[], Any] | None = None,
    ) -> None:
        ov = openvino()
        network = traced_blocks(blocks, size, channels) if convert is None else convert()
        prepared = ov.preprocess.PrePostProcessor(network)
        prepared.input().tensor().set_layout(ov.Layout("NHWC"))  # memory layout of the batches
        prepared.input().model().set_layout(ov.Layout("NCHW"))
        precision = "bf16" if compute.precision == "bf16" else "f32"
        options = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "THROUGHPUT",
            **on_threads(torch.get_num_threads()),
        }
        self._compiled = core().compile_model(prepared.build(), "CPU", options)
        self.name = f"openvino-{precision}"

    def run(self, inputs: Iterator[Tensor]) -> Iterator[Array]:
        images = (np.ascontiguousarray(x_BCHW.permute(0, 2, 3, 1).numpy()) for x_BCHW in inputs)
        return map(_channels_last, in_flight(self._compiled, images))


def traced_blocks(blocks: nn.Sequential, size: Size, channels: int) -> Any:
    """OpenVINO's model of blocks, for any number of inputs [B, C, H, W]."""
    return traced_model(blocks, torch.zeros(1, channels, *size))


def _channels_last(outputs: Array) -> Array:
    """Maps [B, C, H, W] as [B, H, W, C]; other outputs as they are."""
    return outputs.transpose(0, 2, 3, 1) if outputs.ndim == 4 else outputs
