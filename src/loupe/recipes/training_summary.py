"""Training settings of a recipe as one line of text."""

from collections.abc import Iterator

from loupe.config.loss import Focal
from loupe.config.network import BlendSpec, CnnSpec
from loupe.config.optimizer import STRONGEST, WEAKEST, Adam, Logistic, Muon, RmsProp, Sgd
from loupe.config.recipe import AugmentSpec, Recipe, Stage
from loupe.errors import counted


def training_summary(recipe: Recipe) -> str:
    """Optimizer, learning rate, schedule, batch size, regularisation, dropout and augmentation of each stage."""
    if isinstance(recipe.model, BlendSpec) and recipe.is_blended:
        return f"mean probabilities of {counted(len(recipe.model.members), 'trained run')}, nothing trained"
    stages = ", then ".join(", ".join(_stage(stage)) for stage in recipe.stages)
    rates = [block.dropout for block in recipe.model.blocks] if isinstance(recipe.model, CnnSpec) else []
    rates += [layer.dropout for layer in recipe.model.hidden]
    dropout = "dropout " + ", ".join(f"{rate:g}" for rate in rates) if any(rates) else "no dropout"
    return f"{stages}; {dropout}; {_kept(recipe)} kept"


def _kept(recipe: Recipe) -> str:
    """Weights at the end: a solved head is always that of its best strength."""
    solved = [stage.is_solved for stage in recipe.stages]
    if all(solved) or (solved[-1] and recipe.keep == "last"):
        return "best L2 strength"
    if recipe.keeps == "last-unless-beaten":
        return "last epoch, unless another is better by more than chance"
    return f"{recipe.keeps} epoch" + (" or L2 strength" if any(solved) and recipe.keeps == "best" else "")


def _stage(stage: Stage) -> Iterator[str]:
    part = "" if stage.part == "all" else f" for the {stage.part}"
    if stage.is_solved:
        yield _strengths(stage, part)
    else:
        yield f"{counted(stage.planned_epochs, 'epoch')} of {_optimizer(stage)} at {stage.lr:g}{part}"
        yield stage.schedule.name
        yield f"batch {stage.batch_size}"
    if isinstance(stage.loss, Focal):
        yield f"focal loss with gamma {stage.loss.gamma:g}"
    for name in ("l2", "weight_decay", "label_smoothing", "clip_norm", "ema_decay", "patience_epochs"):
        if value := getattr(stage, name):
            yield f"{name.removesuffix('_epochs').replace('_', ' ')} {value:g}"
    if not stage.batch_statistics:
        yield "frozen batch-norm statistics"
    if isinstance(stage.batch_norm_sync, bool):
        yield "batch normalisation by the " + ("batch of all processes" if stage.batch_norm_sync else "share of each")
    yield ", ".join(augmentation_words(stage.augment)) or "no augmentation"


def augmentation_words(spec: AugmentSpec) -> list[str]:
    """Each random change of the training images: `rotation 15 degrees`, `horizontal flip`; empty without any."""
    return [_change(name, value) for name, value in _augmentation(spec)]


def _strengths(stage: Stage, part: str) -> str:
    """L2 strengths of a solved head: their number and ends, or that they go on."""
    optimizer = stage.optimizer
    assert isinstance(optimizer, Logistic)
    if stage.is_open:
        start = f" from {optimizer.strongest:g}" if optimizer.strongest else ""
        end = f", down to {optimizer.weakest:g} at most" if optimizer.weakest else ""
        return f"L2 strengths of logistic regression{part}{start} until the validation loss has risen{end}"
    ends = f"({optimizer.strongest or STRONGEST:g} to {optimizer.weakest or WEAKEST:g})"
    return f"{counted(stage.planned_epochs, 'L2 strength')} of logistic regression {ends}{part}"


def _optimizer(stage: Stage) -> str:
    optimizer = stage.optimizer
    if isinstance(optimizer, Adam):
        return "AdamW" if stage.weight_decay else "Adam"
    if isinstance(optimizer, Muon):
        return "Muon"
    if isinstance(optimizer, RmsProp):
        return "RMSprop"
    assert isinstance(optimizer, Sgd)
    return f"SGD with momentum {optimizer.momentum:g}"


def _augmentation(spec: AugmentSpec) -> Iterator[tuple[str, object]]:
    """Fields that differ from no augmentation, without those of the fill."""
    plain = AugmentSpec()
    for name in AugmentSpec.model_fields:
        if name not in {"fill", "fill_value"} and getattr(spec, name) != getattr(plain, name):
            yield name, getattr(spec, name)


def _change(name: str, value: object) -> str:
    """Text of one field: `rotation 15 degrees`, `crop padding 4 px`, `zoom 0.8 to 1.2`, `horizontal flip`."""
    words = name.split("_")
    unit = words.pop() if words[-1] in {"degrees", "px"} else ""
    text = " ".join(words)
    if value is True:
        return text
    if isinstance(value, str):
        return f"{text} ({value})"
    shown = f"{value[0]:g} to {value[1]:g}" if isinstance(value, tuple) else f"{value:g}"
    return f"{text} {shown} {unit}".rstrip()
