"""Recipes from YAML files and from `--set KEY=VALUE`; what is wrong with one is said in a sentence."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from loupe.config.base import Frozen
from loupe.config.network import BackboneSpec, CnnSpec, ConvBlock, Dense
from loupe.config.optimizer import Adam, Constant, Cosine, Logistic, Muon, OneCycle, Plateau, RmsProp, Sgd, Step
from loupe.config.recipe import AugmentSpec, InputSpec, Recipe, SplitSpec, Stage
from loupe.errors import LoupeError, unknown_name

# What an error's location names, and the part of a recipe that it is.
PARTS: dict[str, type[Frozen]] = {
    "input": InputSpec,
    "split": SplitSpec,
    "cnn": CnnSpec,
    "backbone": BackboneSpec,
    "blocks": ConvBlock,
    "hidden": Dense,
    "stages": Stage,
    "augment": AugmentSpec,
    "sgd": Sgd,
    "adam": Adam,
    "adamw": Adam,
    "muon": Muon,
    "logistic": Logistic,
    "rmsprop": RmsProp,
    "constant": Constant,
    "step": Step,
    "cosine": Cosine,
    "one-cycle": OneCycle,
    "plateau": Plateau,
}


# Names in a location that stand for a kind of network and not for a key.
KINDS = {"cnn"}


def parse(data: Any, source: str) -> Recipe:
    """A recipe from plain data; LoupeError, naming `source`, says which keys are wrong and what is allowed."""
    if not isinstance(data, Mapping):
        raise LoupeError(f"{source}: a recipe is a mapping of keys to values, not {type(data).__name__}.")
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise LoupeError(f"{source}: " + "; ".join(_explain(data, dict(item)) for item in error.errors())) from None


def load(path: Path) -> Recipe:
    """The recipe in a YAML file; LoupeError where it cannot be read or is not one."""
    try:
        return parse(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LoupeError(f"{path}: cannot be read as a recipe: {_one_line(error)}") from None


def override(recipe: Recipe, settings: Iterable[str] | Mapping[str, Any]) -> Recipe:
    """The recipe with settings applied in order; after each it must be a recipe again.

    `settings` are texts such as `stages.0.lr=3e-4`, or a mapping of keys to values.
    """
    pairs = settings.items() if isinstance(settings, Mapping) else map(_parse_setting, settings)
    for path, value in pairs:
        data = recipe.model_dump(mode="json")
        _place(data, path.split("."), value, path)
        recipe = parse(data, "--set")
    return recipe


def differences(one: Recipe, other: Recipe) -> list[str]:
    """The keys, as `--set` takes them, in which two recipes differ."""
    return list(_differing(one.model_dump(mode="json"), other.model_dump(mode="json"), ""))


def _differing(one: Any, other: Any, path: str) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        pairs = {key: (one[key], other[key]) for key in one}
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = {str(number): pair for number, pair in enumerate(zip(one, other, strict=True))}
    else:
        if one != other:
            yield path
        return
    for key, (mine, theirs) in pairs.items():
        yield from _differing(mine, theirs, f"{path}.{key}".lstrip("."))


def _parse_setting(setting: str) -> tuple[str, Any]:
    path, sign, text = setting.partition("=")
    if not sign or not path:
        raise LoupeError(f"--set takes KEY=VALUE, for example stages.0.lr=3e-4; got {setting!r}.")
    try:
        return path, yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise LoupeError(f"--set {path}: the value {text!r} is not YAML: {_one_line(error)}") from None


def _place(data: Any, keys: list[str], value: Any, path: str) -> None:
    for depth, key in enumerate(keys):
        here = ".".join(keys[:depth]) or "the recipe"
        if isinstance(data, list):
            if not key.isdigit() or int(key) >= len(data):
                raise LoupeError(f"--set {path}: {here} has entries 0 to {len(data) - 1}; got {key!r}.")
            index: Any = int(key)
        elif isinstance(data, dict):
            if key not in data:
                raise unknown_name(f"key in --set {path}: {here} has no", key, data)
            index = key
        else:
            raise LoupeError(f"--set {path}: {here} is the single value {data!r}; it has no {key!r}.")
        if depth == len(keys) - 1:
            data[index] = value
        else:
            data = data[index]


def _explain(data: Any, item: dict[str, Any]) -> str:
    """One of pydantic's errors as a sentence: where, what was given, what is allowed."""
    where = ".".join(str(part) for part in item["loc"] if part not in KINDS) or "recipe"
    if item["type"] == "extra_forbidden":
        parent = ".".join(str(part) for part in item["loc"][:-1] if part not in KINDS) or "recipe"
        known = _fields_at(item["loc"][:-1])
        return str(unknown_name(f"key in {parent}:", str(item["loc"][-1]), known)) if known else f"unknown key {where}"
    given = item.get("input")
    shown = "" if isinstance(given, Mapping) else f" (got {given!r})"
    return f"{where}: {item['msg'].removeprefix('Value error, ')}{shown}"


def _fields_at(location: tuple[Any, ...]) -> list[str]:
    """The known keys of the part of a recipe that an error's location names."""
    names = [part for part in location if isinstance(part, str)]
    owner = PARTS.get(names[-1]) if names else Recipe
    return list(owner.model_fields) if owner else []


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
