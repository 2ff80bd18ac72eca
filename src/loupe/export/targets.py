"""Targets of an export. To add one, write a module with a function from `Job` to `Written`, and add it to TARGETS."""

from collections.abc import Callable

from loupe.export import onnx_target, openvino_target, timm_target, torch_target, web_target
from loupe.export.job import Job, Precision, Written

TARGETS: dict[str, Callable[[Job], Written]] = {
    "onnx": onnx_target.write,
    "openvino": openvino_target.write,
    "timm": timm_target.write,
    "torch": torch_target.write,
    "web": web_target.write,
}

PRECISIONS_OF: dict[str, tuple[Precision, ...]] = dict.fromkeys(TARGETS, ("fp32",)) | {"onnx": ("fp32", "fp16", "int8")}
"""Precisions of each target."""
