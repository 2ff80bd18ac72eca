"""Targets of an export. To add one, write a module with a function from `Job` to `Written`, and add it to TARGETS."""

from collections.abc import Callable

from loupe.export import onnx_target, openvino_target, torch_target
from loupe.export.job import Job, Written

TARGETS: dict[str, Callable[[Job], Written]] = {
    "onnx": onnx_target.write,
    "openvino": openvino_target.write,
    "torch": torch_target.write,
}
