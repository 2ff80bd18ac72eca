"""Muon: for each kernel, the nearest orthogonal matrix to the momentum of its gradient."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Group = dict[str, Any]  # as PyTorch's optimizers take them: `params`, and settings of their own

# The quintic that brings singular values of 0 to 1 near 1 fastest, and how often it is applied (Jordan et al. 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
# The share of a matrix's norm below which an entry is taken for 0. Units that have died leave a momentum that decays
# towards numbers below float32's normal ones, which processors multiply a hundred times slower; and all the steps
# together magnify 500 times.
NEGLIGIBLE = 1e-10


class Muon(torch.optim.Optimizer):
    """Muon for the kernels, Adam for everything else, at one learning rate.

    A kernel of a convolution is the matrix of its filters. The orthogonal matrix is scaled by 0.2·√max(rows, columns),
    which gives its entries the size that Adam's update has, so that Adam's rates and weight decay fit both.

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
    """About U·Vᵀ of the matrix U·S·Vᵀ: its singular values come to between 0.7 and 1.2. Those that are 0 stay.

    Each step multiplies by a polynomial of the Gram matrix, from the left. All of them commute, so that they are
    gathered there, on the short side, and the long side is passed but twice.
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
