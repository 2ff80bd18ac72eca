"""Optimizers without `torch.compile` take the steps of PyTorch's own."""

import pytest
import torch

from loupe.training import eager

SETTINGS = {
    "Adam": {"lr": 1e-2, "fused": True},
    "RMSprop": {"lr": 1e-2, "foreach": True},
    "SGD": {"lr": 1e-2, "momentum": 0.9, "nesterov": True},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_steps_are_those_of_pytorch(name):
    weights = []
    for kind in (getattr(eager, name), getattr(torch.optim, name)):
        parameter = torch.nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4))
        optimizer = kind([parameter], **SETTINGS[name])
        for step in range(5):
            if step == 3:
                optimizer.load_state_dict(optimizer.state_dict())
            (parameter**3 + parameter).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert parameter.grad is None
        weights.append(parameter.detach())
    assert torch.equal(*weights)
