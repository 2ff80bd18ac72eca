"""Summary of a network: parameter counts and the layer table."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from loupe.models.classifier import Classifier


def count_parameters(module: nn.Module) -> dict[str, int]:
    """Total, trainable and non-trainable, as Keras counts: running means and variances are non-trainable parameters."""
    trainable = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in module.parameters() if not parameter.requires_grad)
    buffers = sum(buffer.numel() for buffer in module.buffers() if buffer.is_floating_point())
    return {"total": trainable + frozen + buffers, "trainable": trainable, "non_trainable": frozen + buffers}


def layer_table(model: Classifier, *, also: Iterable[str] = (), side_px: int | None = None) -> list[dict[str, Any]]:
    """A row for each layer, in the order of the forward pass; `output` is its shape without the batch.

    The pass is made on PyTorch's meta device: nothing is computed, and the model's own state is not touched.

    Args:
        also: names of modules made of layers that get a row too, after the last of these.
        side_px: of the images; None is the network's own.

    Raises:
        RuntimeError, AssertionError: the network takes no images of that size.
    """
    rows: list[dict[str, Any]] = []
    listed = {module: name for name, module in model.named_modules() if not list(module.children())}
    listed |= {model.get_submodule(name): name for name in also}
    counts = {module: count_parameters(module) for module in listed}

    def note(module: nn.Module, inputs: Any, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        made = output[0] if isinstance(output, tuple) else output  # an LSTM gives its state too
        rows.append(
            {
                "name": listed[module],
                "type": type(module).__name__,
                "output": list(made.shape[1:]),
                "parameters": counts[module]["total"],
                "trainable": counts[module]["trainable"] > 0,
            }
        )

    hooks = [module.register_forward_hook(note) for module in listed]
    side = side_px or model.preprocessing.size_px
    was_training = model.training
    try:
        model.eval()
        state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        abstract = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
        with torch.no_grad():
            torch.func.functional_call(model, abstract, torch.empty(1, 3, side, side, device="meta"))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return rows
