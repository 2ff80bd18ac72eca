"""Muon: an optimizer that moves each kernel along the nearest orthogonal matrix to its momentum."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from loupe.training.eager import EagerOptimizer

Group = dict[str, Any]  # parameter group of a PyTorch optimizer: `params`, and its settings

# Quintic polynomial that moves singular values between 0 and 1 towards 1, and how often it is applied (Jordan et al.
# 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
# Entries below this share of a matrix's norm are set to 0. The momentum of dead units decays towards subnormal float32
# numbers, which processors multiply a hundred times slower; all the steps together magnify 500 times.
NEGLIGIBLE = 1e-10


class Muon(EagerOptimizer):
    """Muon for the kernels, Adam for everything else, at one learning rate.

    A kernel of a convolution is the matrix of its filters. The orthogonal matrix is scaled by 0.2·√max(rows, columns),
    so that its entries are as large as those of Adam's update, and Adam's rates and weight decay suit both.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the scale is of Liu et al.
    2025, arXiv:2502.16982, section 2.2.
    """

    def __init__(
        self,
        kernels: Sequence[Group],
        others: Sequence[Group],
        lr: float,
        *,
        momentum: float,
        beta1: float,
        beta2: float,
        epsilon: float,
    ) -> None:
        groups = [{**group, "momentum": momentum} for group in kernels]
        groups += [{**group, "betas": (beta1, beta2), "epsilon": epsilon} for group in others]
        super().__init__([group for group in groups if group["params"]], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" in group:
                    update = _muon(parameter.grad, state, group["momentum"])
                else:
                    update = _adam(parameter.grad, state, group["betas"], group["epsilon"])
                parameter.sub_(update, alpha=group["lr"])


def _muon(gradient: Tensor, state: dict[str, Tensor], momentum: float) -> Tensor:
    if not state:
        state["momentum_buffer"] = torch.zeros_like(gradient)
    state["momentum_buffer"].lerp_(gradient, 1 - momentum)
    ahead = gradient.lerp(state["momentum_buffer"], momentum)  # Nesterov's
    matrix = ahead.flatten(1)
    scale: float = 0.2 * max(matrix.shape) ** 0.5
    return orthogonalised(matrix).mul_(scale).reshape(gradient.shape)


def _adam(gradient: Tensor, state: dict[str, Tensor], betas: tuple[float, float], epsilon: float) -> Tensor:
    if not state:
        state["step"] = torch.zeros(())
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
    state["step"] += 1
    state["exp_avg"].lerp_(gradient, 1 - betas[0])
    state["exp_avg_sq"].lerp_(gradient.square(), 1 - betas[1])
    steps = state["step"].item()
    mean: Tensor = state["exp_avg"] / (1 - betas[0] ** steps)
    return mean / ((state["exp_avg_sq"] / (1 - betas[1] ** steps)).sqrt() + epsilon)


def orthogonalised(matrix_RC: Tensor) -> Tensor:
    """Approximation of U·Vᵀ for a matrix U·S·Vᵀ: singular values become 0.7 to 1.2, and those of 0 stay 0.

    Each step multiplies by a polynomial of the Gram matrix, from the left. These polynomials commute, so that their
    product is computed on the short side first, and only two products have the long side.
    """
    wide = (matrix_RC if matrix_RC.shape[0] <= matrix_RC.shape[1] else matrix_RC.T).float()
    wide = wide / (wide.norm() + 1e-7)
    wide.masked_fill_(wide.abs() < NEGLIGIBLE, 0.0)
    gram = wide @ wide.T
    product = torch.eye(len(gram), device=gram.device)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor @ product
        gram = factor @ gram @ factor
    near: Tensor = product @ wide
    return (near if matrix_RC.shape[0] <= matrix_RC.shape[1] else near.T).to(matrix_RC.dtype)
