import copy

import numpy as np
import pytest
import torch
from torch import nn

from loupe.config.optimizer import Adam, Muon, RmsProp, Sgd
from loupe.config.recipe import Preprocessing, Stage
from loupe.models.classifier import Classifier
from loupe.training import muon, optimizers
from loupe.training.checkpoint import optimizer_tensors, restore_optimizer


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def loss_of(model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, 3, 8, 8, generator=generator)
    y = torch.randint(0, 5, (16,), generator=generator)
    return nn.functional.cross_entropy(model(x), y)


def test_l2_equals_the_penalty_written_into_the_loss():
    model, twin = network(), network()
    (loss_of(twin) + 1e-2 * sum((p**2).sum() for p in twin.parameters() if p.ndim > 1)).backward()
    loss_of(model).backward()
    optimizers.add_l2_gradient(optimizers.decayed(model), 1e-2)
    for ours, reference in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, reference.grad, rtol=1e-5, atol=1e-7)


def test_decay_spares_biases_and_norms_unless_told():
    model = network()
    assert [p.ndim for p in optimizers.decayed(model)] == [4, 2]
    assert len(optimizers.decayed(model, everything=True)) == len(list(model.parameters()))


def test_decoupled_decay_with_adam_is_pytorchs_adamw():
    # In front of a norm a bias has no gradient but noise, which Adam would blow up: hence none here.
    model, twin = (nn.Sequential(*[part for part in network() if not isinstance(part, nn.BatchNorm2d)]) for _ in "ab")
    stage = Stage(epochs=1, lr=1e-2, optimizer=Adam(), weight_decay=0.1, decay_all=True)
    ours = optimizers.build(stage, model)
    reference = torch.optim.AdamW(twin.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(5):
        for net, optimizer in ((model, ours), (twin, reference)):
            optimizer.zero_grad()
            loss_of(net).backward()
            if net is model:
                optimizers.decay(ours, optimizers.decayed(model, everything=True), stage.weight_decay)
            optimizer.step()
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_of_keras_puts_epsilon_inside_the_root(momentum):
    """Against the update rule of keras.optimizers.RMSprop, written out in NumPy float64."""
    parameter = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    stage = Stage(epochs=1, lr=0.01, optimizer=RmsProp(rho=0.9, epsilon=1e-3, epsilon_in_root=True, momentum=momentum))
    model = nn.Module()
    model.register_parameter("w", parameter)
    optimizer = optimizers.build(stage, model)
    w, velocity, moving = parameter.detach().numpy().copy(), np.zeros(3), np.zeros(3)
    for step in range(6):
        gradient = np.array([0.3, -0.01, 0.0]) * (step + 1)
        parameter.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        velocity = 0.9 * velocity + 0.1 * gradient**2
        increment = 0.01 * gradient / np.sqrt(velocity + 1e-3)
        moving = momentum * moving + increment
        w -= moving if momentum else increment
    np.testing.assert_allclose(parameter.detach().numpy(), w, rtol=1e-12)


@pytest.mark.parametrize("shape", [(4, 27), (30, 8), (16, 16)])
def test_orthogonalising_brings_every_singular_value_near_one(shape):
    """Against the singular value decomposition: the same directions, and values between 0.65 and 1.25."""
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    core = left.T @ muon.orthogonalised(matrix) @ right.T
    values = core.diagonal()
    assert values.min() > 0.65 and values.max() < 1.25
    torch.testing.assert_close(core, values.diag(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("share", [1e-44, 1e-38, 1e-20, 1e-11])
def test_what_is_left_of_the_momentum_of_dead_units_is_not_multiplied_with(share):
    """Numbers below float32's normal ones are multiplied a hundred times slower, and 1e-20 squared is one."""
    alive = torch.randn(16, 48, generator=torch.Generator().manual_seed(0))
    alive[::2] = 0.0
    dead = alive + share * torch.randn(16, 48, generator=torch.Generator().manual_seed(1))
    dead[1::2] = alive[1::2]
    assert torch.equal(muon.orthogonalised(dead), muon.orthogonalised(alive))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
def test_muon_is_pytorchs_for_matrices_and_adam_for_the_rest():
    """PyTorch's works in bfloat16, so that the directions agree to about a percent."""
    model, twin = network(), network()
    ours = optimizers.build(Stage(epochs=1, lr=1e-2, optimizer=Muon()), model)
    kernel, *rest = twin.parameters()
    matrix = nn.Parameter(kernel.detach().flatten(1))
    theirs = torch.optim.Muon([matrix], lr=1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.Adam(rest, lr=1e-2)
    for _ in range(4):
        before = [parameter.detach().clone() for parameter in model.parameters()]
        for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
            mine.grad = other.grad = torch.randn(mine.shape, generator=torch.Generator().manual_seed(mine.numel()))
        start = matrix.detach().clone()
        matrix.grad = kernel.grad.flatten(1)
        for optimizer in (ours, theirs, adam):
            optimizer.step()
        moved, expected = next(model.parameters()).detach() - before[0], (matrix.detach() - start).reshape(kernel.shape)
        assert nn.functional.cosine_similarity(moved.flatten(), expected.flatten(), dim=0) > 0.99
        assert moved.norm() == pytest.approx(expected.norm().item(), rel=0.03)
    for mine, other in zip(list(model.parameters())[1:], rest, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("spec", [Adam(), Sgd(momentum=0.0, nesterov=False), Muon()], ids=str)
def test_layer_decay_gives_each_block_a_share_of_the_rate_of_the_one_above(spec):
    blocks = [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)]
    head = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    sizes = Preprocessing(size_px=8, load_px=8)
    model = Classifier(nn.Sequential(*blocks), head, sizes, tuple("abcde"))
    model.learn("last-2")
    stage = Stage(epochs=1, lr=0.1, layer_decay=0.5, optimizer=spec, part="last-2")
    optimizer = optimizers.build(stage, model)
    optimizers.set_rate(optimizer, 0.2)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert [rates.get(id(block.weight)) for block in blocks] == pytest.approx([None, 0.05, 0.1])
    assert rates[id(head[1].bias)] == pytest.approx(0.2)
    assert len(rates) == 6, "each parameter that learns is in one group, and no other"
    before = [block.weight.detach().clone() for block in blocks]
    optimizers.decay(optimizer, optimizers.decayed(model), 1.0)
    for block, old, share in zip(blocks, before, (0.0, 0.05, 0.1), strict=True):
        torch.testing.assert_close(block.weight, old * (1 - share))


SPECS = [
    Sgd(),
    Sgd(momentum=0.0, nesterov=False),
    Adam(),
    Muon(),
    RmsProp(),
    RmsProp(momentum=0.9),
    RmsProp(epsilon_in_root=True),
    RmsProp(epsilon_in_root=True, momentum=0.9),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_an_optimizer_learns_and_goes_on_bit_for_bit_after_a_restore(spec):
    stage = Stage(epochs=1, lr=1e-3, optimizer=spec)
    model = network()
    optimizer = optimizers.build(stage, model)

    def steps(net, opt, count):
        for _ in range(count):
            opt.zero_grad()
            loss_of(net).backward()
            opt.step()

    first = loss_of(model).item()
    steps(model, optimizer, 4)
    twin = copy.deepcopy(model)
    # Contiguous, as a file gives them back; the parameters are channels-last, and their state must become so too.
    saved = {name: tensor.clone().contiguous() for name, tensor in optimizer_tensors(optimizer).items()}
    again = optimizers.build(stage, twin)
    restore_optimizer(again, saved)
    steps(model, optimizer, 4)
    steps(twin, again, 4)
    for mine, theirs in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
    assert loss_of(model).item() < first


@pytest.mark.parametrize("spec", [Adam(), Sgd(momentum=0.9), RmsProp(rho=0.9), Muon()], ids=lambda spec: spec.name)
def test_what_dead_units_leave_in_an_optimizer_is_forgotten_and_moves_no_weight(spec):
    """A gradient for ten steps, and none for the 1,990 after them: 0.9 of the smallest number is that number again."""
    model = network()
    optimizer = optimizers.build(Stage(epochs=1, lr=1e-3, optimizer=spec), model)
    loss_of(model).backward()
    for step in range(2000):
        if step == 10:
            for parameter in model.parameters():
                parameter.grad.zero_()
        optimizer.step()
    twin, twins = copy.deepcopy((model, optimizer))
    optimizers.flush_subnormals(optimizer)
    smallest = torch.finfo(torch.float32).tiny
    left = [value[value != 0].abs() for _, value in memory(twins)]
    assert any(values.numel() and values.min() < smallest for values in left)
    for (name, mine), (_, theirs) in zip(memory(optimizer), memory(twins), strict=True):
        assert torch.equal(mine, torch.where(theirs.abs() < smallest, 0.0, theirs)), name
    for _ in range(3):
        optimizer.step()
        twins.step()
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def memory(optimizer: torch.optim.Optimizer) -> list[tuple[str, torch.Tensor]]:
    states = optimizer.state_dict()["state"].values()
    return [(name, value) for state in states for name, value in state.items() if isinstance(value, torch.Tensor)]
