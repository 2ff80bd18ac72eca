"""Column of the splits: split words, true and false, or the number of a fold, and what its values mean."""

from collections.abc import Sequence
from dataclasses import dataclass

from loupe.data.sources.column_names import ALIASES, FALSE, FLAGS, TRUE, rank, squashed
from loupe.data.splits.words import split_of

MOST_FOLDS = 100


@dataclass(frozen=True)
class SplitRule:
    """Column of the splits, and the meaning of its values.

    Attributes:
        name: the column.
        flag: splits of true and of false; None for a column of split words.
        fold: value that validates, where all others train; None otherwise.
    """

    name: str
    flag: tuple[str, str] | None = None
    fold: str | None = None

    def split(self, value: str) -> str | None:
        """Split of a value; None for an empty cell.

        Raises:
            ValueError: the value has no meaning.
        """
        text = value.strip()
        if not text:
            return None
        if self.fold is not None:
            return "val" if same_value(text, self.fold) else "train"
        if self.flag is not None:
            if text.casefold() in TRUE | FALSE:
                return self.flag[0 if text.casefold() in TRUE else 1]
            raise ValueError(f"{text!r} in the column {self.name} is neither true nor false")
        if (split := split_of(text)) is None:
            raise ValueError(f"unknown split {text!r}")
        return split

    def __str__(self) -> str:
        if self.fold is not None:
            return f"{self.name} ({self.fold} is val, others are train)"
        return f"{self.name} (true is {self.flag[0]}, false is {self.flag[1]})" if self.flag else self.name


def asked_rule(name: str, values: Sequence[str]) -> SplitRule | None:
    """Rule for a column that the user chose; None where one of its values has to be chosen as the fold that validates.

    A column without a rule that fits is one of split words, so that the unknown ones are named.
    """
    words = present(values)
    if words and is_flags(words) and (flag := flag_of(name)):
        return SplitRule(name, flag)
    is_folds = 1 < len(words) <= MOST_FOLDS and not any(map(split_of, words))
    return None if is_folds else SplitRule(name)


def fold_rule(name: str, fold: str, values: Sequence[str]) -> SplitRule | None:
    """Rule for a column of folds, one of which validates; None if no row has it."""
    return SplitRule(name, fold=fold) if any(same_value(value, fold) for value in present(values)) else None


def may_be_split(name: str) -> bool:
    """True for a column whose name says that it is the split."""
    return squashed(name) in FLAGS or rank(name, ALIASES["split"]) is not None


def rule_by_values(name: str, values: Sequence[str]) -> SplitRule | None:
    """Rule for a column whose name and values both say that it is the split."""
    is_flag = squashed(name) in FLAGS
    if not may_be_split(name):
        return None
    words = present(values)
    if not words:
        return None
    if not is_flag:
        return SplitRule(name) if all(map(split_of, words)) else None
    share = sum(value.strip().casefold() in TRUE for value in values) / len(values)
    # Where most rows are valid, the column may well say that a row can be used.
    return SplitRule(name, flag_of(name)) if is_flags(words) and 0 < share < 0.5 else None


def use_of(name: str, values: Sequence[str]) -> str:
    """Column as the user may choose it as the split: with a fold that validates, where it has folds."""
    rule = asked_rule(name, values)
    return name if rule else f"{name}:{min(present(values))}"


def present(values: Sequence[str]) -> set[str]:
    return {value.strip() for value in values} - {""}


def is_flags(words: set[str]) -> bool:
    return {word.casefold() for word in words} <= TRUE | FALSE


def flag_of(name: str) -> tuple[str, str] | None:
    """Splits of true and of false in a column of flags, by the words of its name."""
    text = squashed(name)
    for word, splits in (("val", ("val", "train")), ("test", ("test", "train")), ("train", ("train", "test"))):
        if word in text:
            return splits
    return None


def same_value(first: str, second: str) -> bool:
    """True for the same text, or the same number: pandas writes `1.0` for 1."""
    return first == second or first.removesuffix(".0") == second.removesuffix(".0")
