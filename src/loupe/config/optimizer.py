"""Specifications of optimizers and learning rate schedules."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from loupe.config.base import Count, Fraction, NonNegative, Positive, RecipeValue

STRONGEST, WEAKEST = 1e4, 1e-1  # L2 strengths between which a named number of them lies, unless the ends are named


class Sgd(RecipeValue):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    momentum: Fraction = 0.9
    nesterov: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class Adam(RecipeValue):
    """Adam. The stage's `weight_decay` is decoupled (AdamW)."""

    name: Literal["adam", "adamw"] = "adam"
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    epsilon: Positive = 1e-8


class Muon(RecipeValue):
    """Muon, orthogonalised momentum, for all kernels except the output layer's; Adam at the same rate for the rest."""

    name: Literal["muon"] = "muon"
    momentum: Fraction = 0.95
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    epsilon: Positive = 1e-8


class Logistic(RecipeValue):
    """Logistic regression of a linear head, solved to convergence instead of trained in gradient steps.

    There are no epochs: `epochs` is the number of L2 strengths, from `strongest` to `weakest` in equal ratios (null:
    1e4 and 0.1). The validation images select one. With `epochs: auto`, the series begins at 1e4 and goes on by itself
    until the validation loss has risen; `strongest` and `weakest` are then ends that it does not pass. The objective
    is strength · ‖W‖² / 2 + Σ cross-entropy, without a penalty on the biases: scikit-learn's with C = 1 / strength.
    """

    name: Literal["logistic"] = "logistic"
    strongest: Positive | None = None
    weakest: Positive | None = None


class RmsProp(RecipeValue):
    """RMSprop with PyTorch's defaults. Keras has `rho` 0.9, `epsilon` 1e-7 and `epsilon_in_root` true."""

    name: Literal["rmsprop"] = "rmsprop"
    rho: Fraction = 0.99
    epsilon: Positive = 1e-8
    epsilon_in_root: bool = False
    momentum: Fraction = 0.0


class Constant(RecipeValue):
    """Constant learning rate, after an optional linear warmup."""

    name: Literal["constant"] = "constant"
    warmup_epochs: NonNegative = 0.0


class Step(RecipeValue):
    """Multiplication of the rate by `factor` after every `every_epochs`."""

    name: Literal["step"] = "step"
    every_epochs: Positive = 30.0
    factor: Positive = 0.1
    warmup_epochs: NonNegative = 0.0


class Cosine(RecipeValue):
    """Half a cosine from the rate down to `final_fraction` of it at the end of the stage."""

    name: Literal["cosine"] = "cosine"
    final_fraction: Fraction = 0.0
    warmup_epochs: NonNegative = 0.0


class OneCycle(RecipeValue):
    """One cycle (Smith and Topin 2018) along cosines, as PyTorch's OneCycleLR.

    The rate rises from `start_fraction` of the rate to the whole rate at the fraction `peak` of all steps, then falls
    to `final_fraction`.
    """

    name: Literal["one-cycle"] = "one-cycle"
    peak: Annotated[float, Field(gt=0, lt=1)] = 0.3
    start_fraction: Fraction = 0.04
    final_fraction: Fraction = 0.0


class Plateau(RecipeValue):
    """Multiplication of the rate by `factor` when the monitored value has not improved for `patience_epochs`."""

    name: Literal["plateau"] = "plateau"
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience_epochs: Count = 10
    min_lr: NonNegative = 0.0
    warmup_epochs: NonNegative = 0.0


Optimizer = Annotated[Sgd | Adam | Muon | Logistic | RmsProp, Field(discriminator="name")]
Schedule = Annotated[Constant | Step | Cosine | OneCycle | Plateau, Field(discriminator="name")]
