"""Recipes from YAML files and `--set KEY=VALUE`, with one-line messages for invalid ones."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from loupe.config.base import RecipeValue
from loupe.config.loss import CrossEntropy, Focal
from loupe.config.network import BackboneSpec, BlendMember, BlendSpec, CnnSpec, ConvBlock, Dense
from loupe.config.optimizer import Adam, Constant, Cosine, Logistic, Muon, OneCycle, Plateau, RmsProp, Sgd, Step
from loupe.config.recipe import AugmentSpec, InputSpec, Recipe, SplitSpec, Stage
from loupe.errors import ConfigError, unknown_name

# Section of a recipe for each name in the location of a validation error.
SECTIONS: dict[str, type[RecipeValue]] = {
    "input": InputSpec,
    "split": SplitSpec,
    "cnn": CnnSpec,
    "backbone": BackboneSpec,
    "blend": BlendSpec,
    "members": BlendMember,
    "blocks": ConvBlock,
    "hidden": Dense,
    "stages": Stage,
    "augment": AugmentSpec,
    "cross-entropy": CrossEntropy,
    "focal": Focal,
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

MOST_BYTES = 2**17  # of a recipe's file; ours have a few thousand
MOST_VALUES = 10_000  # of a recipe's file; the largest of ours has some hundred
MOST_ERRORS, MOST_SHOWN = 10, 200  # errors named at once, and characters of a value that is named

# Names in a location that are pydantic's tags of a union and not keys.
NETWORK_TAGS = {"cnn", "blend"}


def parse(data: Any, source: str) -> Recipe:
    """Recipe from plain data.

    Args:
        data: mapping of keys to values.
        source: file or option that the data came from, for messages.

    Raises:
        LoupeError: keys or values are invalid; the message names them and the allowed ones.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{source}: a recipe must be a mapping of keys to values; got {type(data).__name__}.")
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        found = "; ".join(_explain(data, dict(item)) for item in error.errors()[:MOST_ERRORS])
        raise ConfigError(f"{source}: {found}") from None


def load(path: Path) -> Recipe:
    """Recipe from a YAML file.

    Raises:
        LoupeError: the file cannot be read, or is not a valid recipe.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a recipe: {_one_line(error)}") from None
    try:
        return parse(parse_yaml(text), str(path))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {_one_line(error)}") from None


def parse_yaml(text: str) -> Any:
    """The value of a YAML text; YAMLError for whatever is wrong with it, and for more than a recipe can hold."""
    if len(text) > MOST_BYTES:
        raise yaml.YAMLError(f"more than {MOST_BYTES:,} characters")
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MOST_VALUES:
            raise yaml.YAMLError(f"more than {MOST_VALUES:,} values")
        return loader.construct_document(node)
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except Exception as error:  # dates and numbers that are none raise whatever Python's own types raise
        raise yaml.YAMLError(f"a value that cannot be read ({_one_line(error)})") from None
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """The number of values in a node, with every alias counted as often as it is used."""
    if isinstance(node, yaml.MappingNode):
        inner = [part for pair in node.value for part in pair]
    else:
        inner = node.value if isinstance(node, yaml.SequenceNode) else []
    if node not in known:
        known[node] = MOST_VALUES  # for an alias inside itself
        known[node] = 1 + sum(_size(part, known) for part in inner)
    return known[node]


def override(recipe: Recipe, settings: Iterable[str] | Mapping[str, Any]) -> Recipe:
    """Recipe with settings applied in order; it must be valid after each one.

    Args:
        recipe: recipe to change.
        settings: texts such as `stages.0.lr=3e-4`, or a mapping of keys to values.

    Raises:
        LoupeError: a key is unknown, or a value is invalid.
    """
    pairs = settings.items() if isinstance(settings, Mapping) else map(_parse_setting, settings)
    for path, value in pairs:
        data = recipe.model_dump(mode="json")
        _assign(data, path.split("."), value, path)
        recipe = parse(data, "--set")
    return recipe


def keys_and_values(settings: Iterable[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a mapping of keys to values.

    Raises:
        ConfigError: a text is not of the form KEY=VALUE.
    """
    return dict(settings.items() if isinstance(settings, Mapping) else map(_parse_setting, settings))


def texts(settings: Iterable[str] | Mapping[str, Any]) -> tuple[str, ...]:
    """Settings in the form of `--set`."""
    if not isinstance(settings, Mapping):
        return tuple(settings)
    return tuple(f"{key}={json.dumps(value, ensure_ascii=False, default=str)}" for key, value in settings.items())


def differences(one: Recipe, other: Recipe) -> list[str]:
    """Keys in which two recipes differ, in the form of `--set`."""
    return list(_different_paths(one.model_dump(mode="json"), other.model_dump(mode="json"), ""))


def _different_paths(one: Any, other: Any, path: str) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        pairs = {key: (one[key], other[key]) for key in one}
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = {str(number): pair for number, pair in enumerate(zip(one, other, strict=True))}
    else:
        if one != other:
            yield path
        return
    for key, (value, other_value) in pairs.items():
        yield from _different_paths(value, other_value, f"{path}.{key}".lstrip("."))


def _parse_setting(setting: str) -> tuple[str, Any]:
    path, sign, text = setting.partition("=")
    if not sign or not path:
        raise ConfigError(f"--set needs KEY=VALUE, for example stages.0.lr=3e-4; got {setting!r}.")
    try:
        return path, parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {path}: the value {text!r} is not YAML: {_one_line(error)}") from None


def _assign(data: Any, keys: list[str], value: Any, path: str) -> None:
    """Assign a value at a path of keys and list positions, in place."""
    for depth, key in enumerate(keys):
        parent = ".".join(keys[:depth]) or "the recipe"
        if isinstance(data, list):
            if not key.isdigit() or int(key) >= len(data):
                raise ConfigError(f"--set {path}: {parent} has entries 0 to {len(data) - 1}; got {key!r}.")
            index: Any = int(key)
        elif isinstance(data, dict):
            if key not in data:
                raise unknown_name(f"key in --set {path}: {parent} has no", key, data)
            index = key
        else:
            raise ConfigError(f"--set {path}: {parent} is the single value {data!r}; it has no key {key!r}.")
        if depth == len(keys) - 1:
            data[index] = value
        else:
            data = data[index]


def _explain(data: Any, item: dict[str, Any]) -> str:
    """One validation error of pydantic as a sentence: the key, the allowed values, the value that was given."""
    where = ".".join(str(key) for key in item["loc"] if key not in NETWORK_TAGS) or "recipe"
    if item["type"] == "extra_forbidden":
        parent = ".".join(str(key) for key in item["loc"][:-1] if key not in NETWORK_TAGS) or "recipe"
        known = _fields_at(item["loc"][:-1])
        return str(unknown_name(f"key in {parent}:", str(item["loc"][-1]), known)) if known else f"unknown key {where}"
    if item["type"] == "union_tag_invalid":
        known = [tag.strip("'") for tag in item["ctx"]["expected_tags"].split(", ")]
        return f"{where}: {unknown_name('name', item['ctx']['tag'], known)}"
    value = item.get("input")
    got = "" if isinstance(value, Mapping) else f" (got {_cut(repr(value))})"
    return f"{where}: {item['msg'].removeprefix('Value error, ')}{got}"


def _fields_at(location: tuple[Any, ...]) -> list[str]:
    """Known keys of the section of a recipe at an error's location."""
    names = [key for key in location if isinstance(key, str)]
    owner = SECTIONS.get(names[-1]) if names else Recipe
    return list(owner.model_fields) if owner else []


def _cut(text: str) -> str:
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
