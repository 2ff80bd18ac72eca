"""Optimizers and schedules of the learning rate, as data."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from loupe.config.base import Count, Fraction, Frozen, NonNegative, Positive


class Sgd(Frozen):
    name: Literal["sgd"] = "sgd"
    momentum: Fraction = 0.9
    nesterov: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class Adam(Frozen):
    """Adam; with `weight_decay` in the stage, the decay is decoupled (AdamW)."""

    name: Literal["adam", "adamw"] = "adam"
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    epsilon: Positive = 1e-8


class Muon(Frozen):
    """Orthogonalised momentum for every kernel but the output layer's; Adam at the same rate for that and the rest."""

    name: Literal["muon"] = "muon"
    momentum: Fraction = 0.95
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    epsilon: Positive = 1e-8


class Logistic(Frozen):
    """Logistic regression, solved to convergence, in the place of steps of a gradient: for a linear head alone.

    Each epoch of the stage is one strength of the L2 penalty, from `strongest` to `weakest` in equal ratios, and the
    validation images choose among them. The objective is strength · ‖W‖² / 2 + Σ cross-entropy, biases left out of the
    penalty: scikit-learn's, with C = 1 / strength.
    """

    name: Literal["logistic"] = "logistic"
    strongest: Positive = 1e4
    weakest: Positive = 1e-1


class RmsProp(Frozen):
    """PyTorch's RMSprop by default. Keras's has `rho` 0.9 and `epsilon` 1e-7, and adds it inside the root."""

    name: Literal["rmsprop"] = "rmsprop"
    rho: Fraction = 0.99
    epsilon: Positive = 1e-8
    epsilon_in_root: bool = False
    momentum: Fraction = 0.0


class Constant(Frozen):
    name: Literal["constant"] = "constant"
    warmup_epochs: NonNegative = 0.0


class Step(Frozen):
    """The rate is multiplied by `factor` after every `every_epochs`."""

    name: Literal["step"] = "step"
    every_epochs: Positive = 30.0
    factor: Positive = 0.1
    warmup_epochs: NonNegative = 0.0


class Cosine(Frozen):
    """Half a cosine from the rate down to `final_fraction` of it, reached when the stage ends."""

    name: Literal["cosine"] = "cosine"
    final_fraction: Fraction = 0.0
    warmup_epochs: NonNegative = 0.0


class OneCycle(Frozen):
    """From `start_fraction` of the rate up to the rate at `peak` of all steps, then down to `final_fraction`.

    Both ways along a cosine (Smith and Topin 2018, as in PyTorch's OneCycleLR).
    """

    name: Literal["one-cycle"] = "one-cycle"
    peak: Annotated[float, Field(gt=0, lt=1)] = 0.3
    start_fraction: Fraction = 0.04
    final_fraction: Fraction = 0.0


class Plateau(Frozen):
    """The rate is multiplied by `factor` when the monitored value has not improved for `patience_epochs`."""

    name: Literal["plateau"] = "plateau"
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience_epochs: Count = 10
    min_lr: NonNegative = 0.0
    warmup_epochs: NonNegative = 0.0


Optimizer = Annotated[Sgd | Adam | Muon | Logistic | RmsProp, Field(discriminator="name")]
Schedule = Annotated[Constant | Step | Cosine | OneCycle | Plateau, Field(discriminator="name")]
