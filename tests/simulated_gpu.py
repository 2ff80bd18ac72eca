"""A GPU that is none: tensors say that they are on `cuda`, and the CPU computes them.

A tensor is on the GPU if its storage is marked. Results inherit the mark of their operands, and what fails on a CUDA
device fails here: operands on different devices, NumPy arrays from tensors that were not copied back, generators and
autocast of another device, and reading a copy that was started without blocking before it has arrived.

PyTorch's own fake tensors say the same of forward passes, but hold no values, and cannot go backward without CUDA.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from loupe.augment import pixels

GPU = torch.device("cuda", 0)
ANY_DEVICES = {
    "copy_",
    "_to_copy",
    "set_",
    "_has_compatible_shallow_copy_type",
}  # operations that take tensors of both devices
CPU_INDICES = {"index", "index_put", "index_put_", "_unsafe_index"}  # a tensor on the GPU takes indices on the CPU
FREE_BYTES = 8 * 2**30
real_autocast = torch.autocast
real_grouping = torch.optim.Optimizer._group_tensors_by_device_and_dtype


def is_on_gpu(tensor: Tensor) -> bool:
    with torch._C.DisableTorchFunction():
        return tensor.device.type == "cpu" and getattr(tensor.untyped_storage(), "on_gpu", False)


def _placed(tensor: Tensor, on_gpu: bool) -> Tensor:
    with torch._C.DisableTorchFunction():
        tensor.untyped_storage().on_gpu = on_gpu
    return tensor


def _tensors(*values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


class _Propagation(TorchDispatchMode):
    """Check of the operands of each operation, forward and backward, and the mark of its results."""

    def __init__(self, gpu: "SimulatedGpu", devices: "_Devices") -> None:
        super().__init__()
        self.gpu, self.devices = gpu, devices

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():
            operands = [tensor for tensor in _tensors(args, kwargs) if tensor.device.type == "cpu"]
            on_gpu = self._check(func.overloadpacket.__name__, operands, args, kwargs)
            held = {tensor.untyped_storage()._cdata for tensor in operands}
            results = func(*args, **kwargs)
            if on_gpu or (not operands and self.devices.inside):
                self.gpu.operations += 1
                for tensor in _tensors(results):
                    if tensor.device.type == "cpu" and tensor.untyped_storage()._cdata not in held:
                        self.gpu.allocate()
                        tensor.untyped_storage().on_gpu = True
            return results

    def _check(self, name: str, operands: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """True if the operation runs on the GPU."""
        large = [tensor for tensor in operands if tensor.ndim] or operands
        places = {is_on_gpu(tensor) for tensor in large}
        if name in CPU_INDICES and is_on_gpu(args[0]):
            places = {is_on_gpu(tensor) for tensor in large if not any(tensor is index for index in args[1])}
        if len(places) > 1 and name not in ANY_DEVICES:
            raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found cuda:0 and cpu")
        on_gpu = is_on_gpu(operands[0]) if name in ANY_DEVICES else True in places
        if on_gpu and any(isinstance(leaf, torch.Generator) for leaf in tree_leaves((args, kwargs))):
            raise RuntimeError(f"{name}: expected a 'cuda' device type for generator but found 'cpu'")
        return on_gpu


class _Devices(TorchFunctionMode):
    """Devices as Python sees them: those of tensors, and those that functions are given."""

    def __init__(self, gpu: "SimulatedGpu") -> None:
        super().__init__()
        self.gpu = gpu
        self.inside = False  # a function of tensors on the GPU, which makes others without naming a device
        self.special: dict[object, Callable[..., Any]] = {
            Tensor.device.__get__: lambda tensor, *_: GPU if is_on_gpu(tensor) else tensor.device,
            Tensor.is_cuda.__get__: lambda tensor, *_: is_on_gpu(tensor),
            Tensor.is_cpu.__get__: lambda tensor, *_: tensor.is_cpu and not is_on_gpu(tensor),
            Tensor.to: self._to,
            Tensor.cpu: lambda tensor, **options: self._to(tensor, "cpu", **options),
            Tensor.cuda: lambda tensor, device=GPU, **options: self._to(tensor, device, **options),
            Tensor.numpy: self._on_cpu(Tensor.numpy),
            Tensor.__array__: self._on_cpu(Tensor.__array__),
            Tensor.pin_memory: self._on_cpu(lambda tensor: tensor.clone()),
        }

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in self.special:
            return self.special[func](*args, **kwargs)
        device = kwargs.get("device")
        if device is None:
            before = self.inside
            self.inside = before or any(is_on_gpu(tensor) for tensor in _tensors(args, kwargs))
            try:
                return func(*args, **kwargs)
            finally:
                self.inside = before
        if torch.device(device).type != "cuda":
            result = func(*args, **kwargs)
            made_on_cpu = isinstance(result, Tensor) and torch.device(device).type == "cpu"
            return _placed(result, on_gpu=False) if made_on_cpu else result
        if kwargs.get("generator") is not None:
            raise RuntimeError("expected a 'cuda' device type for generator but found 'cpu'")
        self.gpu.allocate()
        return _placed(func(*args, **(kwargs | {"device": "cpu"})), on_gpu=True)

    def _to(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`Tensor.to` in all its forms."""
        if args and isinstance(args[0], Tensor):
            args = (GPU if is_on_gpu(args[0]) else args[0].device, args[0].dtype, *args[1:])
        copy = kwargs.pop("copy", False)
        if "memory_format" not in kwargs:
            kwargs["memory_format"] = torch.preserve_format
        names = ("device", "dtype", "non_blocking") if args and not isinstance(args[0], torch.dtype) else ("dtype",)
        options = dict(zip(names, args, strict=False)) | kwargs
        device, non_blocking = options.pop("device", None), options.pop("non_blocking", False)
        here = is_on_gpu(tensor)
        there = here if device is None else torch.device(device).type == "cuda"
        if there == here or (device is not None and torch.device(device).type == "meta"):
            real = {} if device is None or there else {"device": device}
            return tensor.to(**real, copy=copy, **options)
        moved = _placed(tensor.to(copy=True, **options), there)
        return self.gpu.arriving(moved) if non_blocking and here else moved

    @staticmethod
    def _on_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
        def checked(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if is_on_gpu(tensor):
                raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
            return function(tensor, *args, **kwargs)

        return checked


class SimulatedGpu:
    """State of the GPU.

    Attributes:
        operations: number of operations that ran on it.
        room: operations and tensors until its memory is full; None: never.
    """

    def __init__(self) -> None:
        self.operations = 0
        self.room: int | None = None
        self._arriving: list[tuple[Tensor, Tensor]] = []

    def limit(self, fraction: float) -> None:
        """Leave no memory at a fraction of 0."""
        self.room = None if fraction else 0

    def allocate(self) -> None:
        """Take memory for a result; raise what PyTorch raises where there is none left."""
        if self.room is None:
            return
        self.room -= 1
        if self.room < 0:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 has a total capacity of 8.00 GiB of which 0 "
                "bytes is free. Process 1 has 8.00 GiB memory in use. If reserved but unallocated memory is large try "
                "setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True."
            )

    def arriving(self, tensor: Tensor) -> Tensor:
        """Copy to the CPU that has not arrived: its values are wrong until the GPU is waited for."""
        with torch._C.DisableTorchFunction(), torch.no_grad():
            late = torch.full_like(tensor, 77)
            late.untyped_storage().on_gpu = False
        self._arriving.append((late, tensor))
        return late

    def wait(self, *_: object) -> None:
        """Finish all copies."""
        with torch._C.DisableTorchFunction(), torch.no_grad():
            for late, tensor in self._arriving:
                late.copy_(tensor)
        self._arriving.clear()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Context in which this thread has the GPU."""
        devices = _Devices(self)
        with devices, _Propagation(self, devices):
            yield


def _autocast(device_type: str, **options: Any) -> Any:
    if device_type != "cuda" and options.get("enabled", True):
        raise AssertionError(f"autocast of {device_type} in place of cuda")
    return real_autocast("cpu", **options) if options.get("enabled", True) else nullcontext()


def _grouped(groups: list[list[Tensor]], with_indices: bool = False) -> dict[tuple[torch.device, torch.dtype], Any]:
    """Tensors of an optimizer by the device of its parameters; PyTorch groups them where Python is not asked."""
    found = real_grouping(groups, with_indices)
    return {
        (GPU if is_on_gpu(lists[0][0]) else device, dtype): (lists, indices)
        for (device, dtype), (lists, indices) in found.items()
    }


@contextmanager
def simulated_gpu() -> Iterator[SimulatedGpu]:
    """Context in which this process, with all threads that it starts, has one GPU."""
    gpu, run = SimulatedGpu(), threading.Thread.run

    def run_with_gpu(thread: threading.Thread) -> None:
        with gpu.used():
            run(thread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "run", run_with_gpu)
        patch.setattr(torch, "autocast", _autocast)
        patch.setattr(torch.optim.Optimizer, "_group_tensors_by_device_and_dtype", staticmethod(_grouped))
        patch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)  # optimizers ask for its stream
        for name, value in {
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "get_device_name": lambda *_: "simulated GPU",
            "get_device_properties": lambda *_: SimpleNamespace(name="simulated GPU", total_memory=FREE_BYTES),
            "mem_get_info": lambda *_: (FREE_BYTES, FREE_BYTES),
            "max_memory_allocated": lambda *_: 2**20,
            "is_bf16_supported": lambda *_, **__: True,
            "is_current_stream_capturing": lambda: False,
            "manual_seed_all": lambda _: None,
            "current_stream": lambda *_: None,
            "empty_cache": lambda: None,
            "reset_peak_memory_stats": lambda: None,
            "set_per_process_memory_fraction": gpu.limit,
            "synchronize": gpu.wait,
            "Event": lambda **_: SimpleNamespace(record=lambda *_: None, synchronize=gpu.wait),
        }.items():
            patch.setattr(torch.cuda, name, value)
        for name in ("benchmark", "deterministic", "allow_tf32"):
            patch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
        try:
            with gpu.used():
                yield gpu
        finally:
            pixels._scale_and_offset.cache_clear()  # it keeps constants for each device
