"""Search space of `loupe tune`: keys of a recipe with the values to try, checked before anything is computed."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from loupe.config import overrides
from loupe.config.recipe import Recipe
from loupe.errors import ConfigError, LoupeError

Value = int | float | str
Settings = dict[str, Value]
"""Value of each key of a space."""

RANGE = re.compile(r"(?P<low>[^.,:\s]+(?:\.\d+)?(?:e[+-]?\d+)?)\.\.(?P<high>[^:\s]+?)(?P<log>:log)?", re.IGNORECASE)
DIGITS = 3  # significant ones of a drawn number
EVERY_STAGE = "stages.*."
# Keys that do not change what is learned, or that change the images on which settings are compared.
FIXED = ("name", "description", "experiment", "seed", "split", "monitor")
EXAMPLE = "--search stages.0.lr=1e-4..1e-2:log, or --search stages.0.batch_size=16,32,64"


@dataclass(frozen=True)
class SearchKey:
    """Key of a recipe, and the values that are tried for it.

    Attributes:
        key: as for `--set`; `stages.*.KEY` stands for every stage that trains in steps.
        low, high: ends of a range, both included; None for a list of values.
        is_whole: only whole numbers of the range.
        is_log: even on a logarithmic scale.
        choices: list of values, as YAML; empty for a range.
        default: value in the recipe, as YAML; None where the stages of `*` differ.
    """

    key: str
    low: float | None = None
    high: float | None = None
    is_whole: bool = False
    is_log: bool = False
    choices: tuple[str, ...] = ()
    default: str | None = None

    @property
    def text(self) -> str:
        """The key and its values as `--search` takes them."""
        if self.choices:
            return f"{self.key}={','.join(self.choices)}"
        return f"{self.key}={self.low:.12g}..{self.high:.12g}{':log' if self.is_log else ''}"

    @property
    def values(self) -> int | None:
        """Number of values; None for a range of real numbers."""
        if self.choices:
            return len(self.choices)
        return int(self._high) - int(self._low) + 1 if self.is_whole else None

    @property
    def every(self) -> tuple[Value, ...]:
        """All values, where they are finitely many."""
        return self.choices or tuple(range(int(self._low), int(self._high) + 1))

    @property
    def ends(self) -> tuple[Value, ...]:
        """Values to check before a search: all of a list, the ends of a range."""
        return self.choices or (self.used(self._low), self.used(self._high))

    @property
    def default_value(self) -> Value | None:
        """Value in the recipe, if it is one of those that are tried."""
        if self.default is None or self.choices:
            same = [choice for choice in self.choices if parsed(choice) == parsed(self.default or "")]
            return same[0] if same and self.default is not None else None
        value = parsed(self.default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not self._low <= value <= self._high:
            return None
        return self.used(value)

    def used(self, value: float) -> int | float:
        """A number of the range as it is tried: whole, or with three significant digits."""
        if self.is_whole:
            return int(value)
        return min(self._high, max(self._low, float(f"{value:.{DIGITS}g}")))

    @property
    def _low(self) -> float:
        assert self.low is not None
        return self.low

    @property
    def _high(self) -> float:
        assert self.high is not None
        return self.high


def parsed(text: str) -> Any:
    """Value of a YAML text."""
    return overrides.parse_yaml(text)


def to_settings(values: Mapping[str, Value], recipe: Recipe) -> list[str]:
    """Values of the keys of a space in the form of `--set`, with the stages of `*` named."""
    return [f"{one}={value}" for key, value in values.items() for one in stage_keys(key, recipe)]


def stage_keys(key: str, recipe: Recipe) -> list[str]:
    """The key for every stage that it stands for."""
    if not key.startswith(EVERY_STAGE):
        return [key]
    rest = key.removeprefix(EVERY_STAGE)
    return [f"stages.{number}.{rest}" for number, stage in enumerate(recipe.stages) if not stage.is_solved]


def parse(texts: Iterable[str], recipe: Recipe) -> tuple[SearchKey, ...]:
    """Search space from texts such as `stages.0.lr=1e-4..1e-2:log`.

    Raises:
        ConfigError: an unknown key, an invalid range or value, or a key that is named twice.
    """
    space = tuple(_key(text, recipe) for text in texts)
    keys = [key for one in space for key in stage_keys(one.key, recipe)]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ConfigError(f"--search names {twice[0]} twice. Name each key once.")
    return space


def check(space: Sequence[SearchKey], resolve: Callable[[Settings], object]) -> None:
    """Check each value of a list and both ends of each range, the other keys as in the recipe.

    Args:
        resolve: function that raises a LoupeError for settings that cannot be trained.

    Raises:
        ConfigError: a value cannot be used.
    """
    for one in space:
        for value in one.ends:
            try:
                resolve({one.key: value})
            except LoupeError as error:
                raise ConfigError(f"--search {one.key}: the value {value} cannot be used. {_told(error)}") from None


def _key(text: str, recipe: Recipe) -> SearchKey:
    key, sign, values = text.partition("=")
    key, values = key.strip(), values.strip()
    if not sign or not key or not values:
        raise ConfigError(f"--search needs KEY=LOW..HIGH or KEY=VALUE,VALUE; got {text!r}. Example: {EXAMPLE}")
    if key.split(".")[0] in FIXED:
        raise ConfigError(f"--search {key}: this key is no setting to tune. It stays the same: --set {key}=VALUE")
    named = stage_keys(key, recipe)
    if not named:
        raise ConfigError(f"--search {key}: recipe {recipe.name} has no stage that trains in steps.")
    defaults = [_default(recipe, one) for one in named]
    same = defaults[0] if all(one == defaults[0] for one in defaults) else None
    default = None if same is None and len(defaults) > 1 else _yaml(same)
    found = RANGE.fullmatch(values)
    if found:
        return _range(key, found, defaults[0], default)
    choices = tuple(_listed(values))
    try:
        distinct = {repr(parsed(choice)) for choice in choices}
    except yaml.YAMLError:
        raise ConfigError(f"--search {key}: {values!r} is not a list of YAML values.") from None
    if len(choices) < 2 or len(distinct) < len(choices):
        raise ConfigError(
            f"--search {key}: give a range LOW..HIGH or at least two different values; got {values!r}. "
            f"Example: {EXAMPLE}"
        )
    return SearchKey(key, choices=choices, default=default)


def _range(key: str, found: re.Match[str], value: Any, default: str | None) -> SearchKey:
    """Range of numbers; whole ones where both ends are and the recipe's value is none of another kind."""
    low, high = (_number(key, found[end]) for end in ("low", "high"))
    is_log = found["log"] is not None
    if not low < high:
        raise ConfigError(f"--search {key}: the range {found[0]} is empty. Give the lower end first.")
    if is_log and low <= 0:
        raise ConfigError(f"--search {key}: a logarithmic range begins above 0; got {found['low']}.")
    is_whole = isinstance(low, int) and isinstance(high, int) and not isinstance(value, float)
    return SearchKey(key, float(low), float(high), is_whole=is_whole, is_log=is_log, default=default)


def _number(key: str, text: str) -> int | float:
    try:
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    except ValueError:
        raise ConfigError(f"--search {key}: {text!r} is not a number. Example: {EXAMPLE}") from None


def _listed(text: str) -> list[str]:
    """Values between commas that are not inside brackets."""
    parts, depth = [""], 0
    for sign in text:
        depth += (sign in "[{") - (sign in "]}")
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts]


def _default(recipe: Recipe, key: str) -> Any:
    """Value of a key of the recipe.

    Raises:
        ConfigError: there is no such key; with the nearest known ones.
    """
    data: Any = recipe.model_dump(mode="json")
    value = data
    for part in key.split("."):
        if isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            break
    else:
        return value
    try:
        overrides.override(recipe, {key: None})
    except ConfigError as error:
        raise ConfigError(_told(error)) from None
    raise ConfigError(f"--search {key}: no such key in recipe {recipe.name}.")


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
    return text.removesuffix("...").strip()


def _told(error: Exception) -> str:
    """An error of `--set` in the words of `--search`."""
    return str(error).replace("--set", "--search")
