"""Optimizers, their groups of parameters, L2 penalty and weight decay."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from loupe.config.optimizer import Adam, Logistic, Muon, RmsProp, Sgd
from loupe.config.recipe import Stage
from loupe.models.classifier import Classifier
from loupe.training import eager, muon

FLUSH_EVERY_STEPS = 100
SMALLEST_NORMAL = torch.finfo(torch.float32).tiny


class KerasRmsProp(eager.EagerOptimizer):
    """RMSprop as Keras computes it: epsilon is added to the mean square inside the root, not to the root.

    Source: keras.optimizers.RMSprop (Keras 3), after Hinton's lecture 6e.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, rho: float = 0.9, epsilon: float = 1e-7, momentum: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "rho": rho, "epsilon": epsilon, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            params = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not params:
                continue
            grads = [parameter.grad for parameter in params]
            for parameter in params:
                if not self.state[parameter]:
                    self.state[parameter]["square_avg"] = torch.zeros_like(parameter)
                    if group["momentum"]:
                        self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            squares = [self.state[parameter]["square_avg"] for parameter in params]
            torch._foreach_mul_(squares, group["rho"])
            torch._foreach_addcmul_(squares, grads, grads, value=1 - group["rho"])
            roots = torch._foreach_add(squares, group["epsilon"])
            torch._foreach_sqrt_(roots)
            if not group["momentum"]:
                torch._foreach_addcdiv_(params, grads, roots, value=-group["lr"])
                continue
            buffers = [self.state[parameter]["momentum_buffer"] for parameter in params]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_addcdiv_(buffers, grads, roots, value=group["lr"])
            torch._foreach_sub_(params, buffers)


def penalised(model: nn.Module, stage: Stage) -> list[nn.Parameter]:
    """Trainable parameters with the stage's L2 penalty."""
    parameters = decayed(model, everything=stage.decay_all)
    return [p for p in parameters if p.ndim == 4] if stage.l2_on == "convolutions" else parameters


def decayed(model: nn.Module, *, everything: bool = False) -> list[nn.Parameter]:
    """Trainable parameters with weight decay or L2 penalty: the kernels, or all of them.

    Kernels are the weights of convolutions and dense layers, of four and two dimensions; biases and norms have one, the
    tokens and positions of a transformer three.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return trainable if everything else [parameter for parameter in trainable if parameter.ndim in {2, 4}]


@torch.no_grad()
def l2_penalty(parameters: list[nn.Parameter], l2: float) -> float:
    """L2 term of the loss, l2 · Σw², as in Keras's `regularizers.l2`."""
    return l2 * sum(parameter.float().square().sum().item() for parameter in parameters) if l2 else 0.0


@torch.no_grad()
def add_l2_gradient(parameters: list[nn.Parameter], l2: float) -> None:
    """Add the gradient of l2 · Σw², which is 2·l2·w; the same as the term in the loss, and cheaper."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    torch._foreach_add_(gradients, [p for p in parameters if p.grad is not None], alpha=2 * l2)


@torch.no_grad()
def decay(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], weight_decay: float) -> None:
    """Apply decoupled weight decay, w ← w · (1 - rate · decay), at the rate of each group (Loshchilov, Hutter 2019)."""
    chosen = {id(parameter) for parameter in parameters}
    for group in optimizer.param_groups:
        kernels: list[Tensor] = [parameter for parameter in group["params"] if id(parameter) in chosen]
        if kernels:
            torch._foreach_mul_(kernels, 1 - group["lr"] * weight_decay)


@torch.no_grad()
def flush_subnormals(optimizer: torch.optim.Optimizer) -> None:
    """Set subnormal float32 numbers in an optimizer's state on a CPU to 0.

    They are remains of the gradients of dead units. They change no weight, never decay to 0 by themselves, and slow a
    processor down many times.
    """
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor) and value.device.type == "cpu":
                value.masked_fill_(value.abs() < SMALLEST_NORMAL, 0.0)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of the next step; each group of parameters gets its share of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["share"]


def build(stage: Stage, model: nn.Module) -> torch.optim.Optimizer:
    """Build the stage's optimizer over the trainable parameters; the training step applies weight decay and L2.

    Each group of parameters has a `share` of the learning rate, which depends on its depth.
    """
    optimizer = _build(stage, model, _groups(stage, model))
    set_rate(optimizer, stage.lr)
    return optimizer


def _groups(stage: Stage, model: nn.Module) -> list[muon.Group]:
    """Trainable parameters by depth: with `layer_decay`, each block has a lower rate than the one after it."""
    blocks: list[nn.Module] = [model]
    if stage.layer_decay != 1:
        assert isinstance(model, Classifier)
        blocks = [model.head, *reversed(model.trunk)]
    groups = [
        {"params": [p for p in block.parameters() if p.requires_grad], "share": stage.layer_decay**depth}
        for depth, block in enumerate(blocks)
    ]
    return [group for group in groups if group["params"]]


def _among(chosen: set[int], groups: list[muon.Group], *, inside: bool) -> list[muon.Group]:
    """Groups with only the chosen parameters, or with only the others; empty groups are left out."""
    parts = [{**group, "params": [p for p in group["params"] if (id(p) in chosen) == inside]} for group in groups]
    return [group for group in parts if group["params"]]


def _build(stage: Stage, model: nn.Module, groups: list[muon.Group]) -> torch.optim.Optimizer:
    spec = stage.optimizer
    if isinstance(spec, Logistic):
        return eager.SGD(groups, lr=stage.lr)  # without state and without steps: solver.py sets the weights
    if isinstance(spec, Sgd):
        return eager.SGD(groups, lr=stage.lr, momentum=spec.momentum, nesterov=spec.nesterov)
    if isinstance(spec, RmsProp):
        if spec.epsilon_in_root:
            return KerasRmsProp(groups, stage.lr, spec.rho, spec.epsilon, spec.momentum)
        return eager.RMSprop(
            groups, lr=stage.lr, alpha=spec.rho, eps=spec.epsilon, momentum=spec.momentum, foreach=True
        )
    if isinstance(spec, Muon):
        *kernels, _output = decayed(model)
        chosen = {id(kernel) for kernel in kernels}
        return muon.Muon(
            _among(chosen, groups, inside=True),
            _among(chosen, groups, inside=False),
            stage.lr,
            momentum=spec.momentum,
            beta1=spec.beta1,
            beta2=spec.beta2,
            epsilon=spec.epsilon,
        )
    assert isinstance(spec, Adam)
    fused = all(parameter.device.type in {"cpu", "cuda"} for parameter in model.parameters())
    return eager.Adam(groups, lr=stage.lr, betas=(spec.beta1, spec.beta2), eps=spec.epsilon, fused=fused)
