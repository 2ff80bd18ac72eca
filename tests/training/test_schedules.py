import math

import pytest
import torch

from loupe.config.optimizer import Constant, Cosine, OneCycle, Plateau, Step
from loupe.config.recipe import Stage
from loupe.training.schedules import rate, stale_epochs


def rates(stage: Stage, steps_per_epoch: int) -> list[float]:
    return [rate(stage, step, steps_per_epoch, []) for step in range(stage.epochs * steps_per_epoch)]


def torch_rates(make, steps: int, lr: float) -> list[float]:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=lr)
    scheduler = make(optimizer)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize("peak", [0.1, 0.3, 0.75])
def test_one_cycle_is_that_of_pytorch(peak):
    stage = Stage(epochs=4, lr=0.2, schedule=OneCycle(peak=peak, start_fraction=0.04, final_fraction=0.001))

    def make(optimizer):
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 0.2, total_steps=40, pct_start=peak, div_factor=25, final_div_factor=40
        )

    assert rates(stage, 10) == pytest.approx(torch_rates(make, 40, 0.2), rel=1e-9)


def test_cosine_is_that_of_pytorch():
    stage = Stage(epochs=3, lr=0.1, schedule=Cosine(final_fraction=0.2))

    def make(optimizer):
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=21, eta_min=0.02)

    assert rates(stage, 7) == pytest.approx(torch_rates(make, 21, 0.1), rel=1e-9)


def test_steps_fall_at_the_epochs_named():
    stage = Stage(epochs=5, lr=1.0, schedule=Step(every_epochs=2, factor=0.1))
    by_epoch = rates(stage, 3)[::3]
    assert by_epoch == pytest.approx([1, 1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("schedule", [Constant(warmup_epochs=2), Cosine(warmup_epochs=2), Step(warmup_epochs=2)])
def test_warm_up_rises_in_a_line_to_the_rate(schedule):
    seen = rates(Stage(epochs=4, lr=0.8, schedule=schedule), 2)
    assert seen[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert seen[4] == pytest.approx(0.8)


def test_a_warm_up_as_long_as_the_stage_still_ends():
    seen = rates(Stage(epochs=1, lr=1.0, schedule=Cosine(warmup_epochs=3)), 4)
    assert all(0 < value <= 1 for value in seen)


def test_plateau_lowers_after_each_wait_as_keras_does():
    stage = Stage(epochs=20, lr=1.0, schedule=Plateau(factor=0.5, patience_epochs=2, min_lr=0.2))
    #          best, wait 1, wait 2 -> x0.5, wait 1, wait 2 -> x0.25, better
    values = [0.5, 0.4, 0.5, 0.1, 0.2, 0.6]
    seen = [rate(stage, 0, 10, values[:epochs]) for epochs in range(len(values) + 1)]
    assert seen == pytest.approx([1, 1, 1, 0.5, 0.5, 0.25, 0.25])
    assert rate(stage, 0, 10, [*values, 0, 0]) == pytest.approx(0.2), "min_lr is the floor"


@pytest.mark.parametrize(
    ("values", "stale"),
    [([], 0), ([1.0], 0), ([1.0, 2.0], 0), ([2.0, 1.0], 1), ([2.0, 2.0, 2.0], 2), ([1, 3, 2, 3], 2)],
)
def test_stale_epochs_count_from_the_first_best(values, stale):
    assert stale_epochs(values) == stale


def test_every_rate_is_finite_and_positive_or_zero():
    for schedule in (OneCycle(), Cosine(), Step(), Constant(), Plateau()):
        for epochs, steps in ((1, 1), (1, 2), (3, 1)):
            seen = rates(Stage(epochs=epochs, lr=0.1, schedule=schedule), steps)
            assert all(math.isfinite(value) and 0 <= value <= 0.1 for value in seen), schedule
