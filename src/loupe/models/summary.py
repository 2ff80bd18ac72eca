"""Summary of a network: parameter counts and the layer table."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from loupe.config.size import Size
from loupe.models.classifier import Classifier


def count_parameters(module: nn.Module) -> dict[str, int]:
    """Numbers of total, trainable and non-trainable parameters, as in Keras: running statistics are non-trainable."""
    trainable = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in module.parameters() if not parameter.requires_grad)
    buffers = sum(buffer.numel() for buffer in module.buffers() if buffer.is_floating_point())
    return {"total": trainable + frozen + buffers, "trainable": trainable, "non_trainable": frozen + buffers}


def parameter_table(model: Classifier) -> list[dict[str, Any]]:
    """Layer table in which every parameter counts once, also those of modules that hold other layers.

    timm's batch normalisation is one of these: its activation is a layer inside it.
    """
    holders = (name for name, module in model.named_modules() if list(module.children()) and _own_count(module))
    return layer_table(model, also=holders)


def _own_count(module: nn.Module) -> int:
    """Parameters of a module itself, without the modules inside it."""
    buffers = (buffer for buffer in module.buffers(recurse=False) if buffer.is_floating_point())
    return sum(value.numel() for value in (*module.parameters(recurse=False), *buffers))


def layer_table(model: Classifier, *, also: Iterable[str] = (), size: Size | None = None) -> list[dict[str, Any]]:
    """Table of layers in the order of the forward pass; `output` is the shape without the batch.

    The state of the model does not change, and no memory of a GPU is taken: from there the pass is moved to PyTorch's
    meta device, where nothing is computed. On a CPU a black image passes where the weights are, as moving them would
    load `torch.compile`, which takes two seconds.

    Args:
        also: names of modules with layers inside that get a row too, after the last of these; it counts the parameters
            that are in none of these layers.
        size: size of the images; None: that of the network's preprocessing.

    Raises:
        RuntimeError: the network does not take images of that size.
        AssertionError: the same, from some networks.
    """
    rows: list[dict[str, Any]] = []
    listed = {module: name for name, module in model.named_modules() if not list(module.children())}
    listed |= {model.get_submodule(name): name for name in also}
    trains = {module: any(one.requires_grad for one in module.parameters(recurse=False)) for module in listed}

    def note(module: nn.Module, inputs: Any, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        result = output[0] if isinstance(output, tuple) else output  # an LSTM also returns its state
        rows.append(
            {
                "name": listed[module],
                "type": type(module).__name__,
                "output": list(result.shape[1:]),
                "parameters": _own_count(module),
                "trainable": trains[module],
            }
        )

    hooks = [module.register_forward_hook(note) for module in listed]
    size = size or model.preprocessing.size
    was_training = model.training
    try:
        model.eval()
        with torch.no_grad():
            _pass(model, size)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return rows


def _pass(model: Classifier, size: Size) -> None:
    """Pass of one image through the network, as `layer_table` needs it."""
    device = next(model.parameters()).device
    shape = (1, model.preprocessing.channels, *size)
    if device.type in {"cpu", "meta"}:
        model(torch.zeros(shape, device=device))
        return
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    abstract = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
    torch.func.functional_call(model, abstract, torch.empty(shape, device="meta"))
