"""PyTorch's optimizers without `torch.compile`: their methods load it at their first call, which takes a second."""

from inspect import unwrap

import torch


class EagerOptimizer(torch.optim.Optimizer):
    """Optimizer whose methods are PyTorch's own, without the wrappers that keep them out of compiled graphs."""

    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    load_state_dict = unwrap(torch.optim.Optimizer.load_state_dict)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)
    zero_grad = unwrap(torch.optim.Optimizer.zero_grad)


class Adam(EagerOptimizer, torch.optim.Adam):
    """`torch.optim.Adam`."""

    step = torch.no_grad()(unwrap(torch.optim.Adam.step))


class RMSprop(EagerOptimizer, torch.optim.RMSprop):
    """`torch.optim.RMSprop`."""

    step = torch.no_grad()(unwrap(torch.optim.RMSprop.step))


class SGD(EagerOptimizer, torch.optim.SGD):
    """`torch.optim.SGD`."""

    step = torch.no_grad()(unwrap(torch.optim.SGD.step))
