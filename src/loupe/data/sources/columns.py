"""Columns of a table of images by their role: those asked for, safe aliases, and a note on those that are not used."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from loupe.data.formats import image_suffixes
from loupe.data.sources.column_names import ALIASES, FLAGS, INDEX, ONE, ZERO, guesses, rank, squashed
from loupe.data.sources.read_options import ROLES, ReadOptions
from loupe.data.sources.split_column import (
    SplitRule,
    asked_rule,
    fold_rule,
    may_be_split,
    present,
    rule_by_values,
    use_of,
)
from loupe.errors import DataError, enumerated
from loupe.log import command_line

MOST_NAMED = 40  # columns that are not used, in the note
MOST_CLASSES = 1000  # one-hot columns
CLASSES_JOINED = "+"
PLAIN = {"path": ("image",), "label": ("labels",), "group": ()}  # names that need no word about their role


class MissingColumn(DataError):  # noqa: N818 - named after the column
    """Table without a column that has a needed `role`."""

    def __init__(self, message: str, role: str) -> None:
        super().__init__(message)
        self.role = role


@dataclass(frozen=True)
class Columns:
    """Columns of a table by their role; None or empty for a role that no column has, except for `path`.

    Attributes:
        one_hot: columns that are the classes, in the place of `label`.
        notes: sentences on columns that were taken under other names, and on those that are not used.
    """

    path: str
    label: str | None
    one_hot: tuple[str, ...]
    split: SplitRule | None
    group: str | None
    id: str | None
    notes: tuple[str, ...] = ()


def resolve(
    file: Path,
    names: Sequence[str],
    values: Callable[[str], Sequence[str]],
    options: ReadOptions,
    *,
    labelled: bool = True,
    images: Sequence[str] | None = None,
) -> Columns:
    """Find the columns of a table by their role.

    Args:
        file: the table, for messages.
        names: its columns.
        values: text of each row of a column; "" for an empty cell.
        options: columns that the user chose.
        labelled: False for a list of images to predict, in which only `path` and `id` are looked for.
        images: columns that can hold images; None for any.

    Raises:
        MissingColumn: no column has names of images, or labels.
        DataError: a column that the user chose does not exist; several could have the same role.
    """
    return _Resolver(file, names, values, options, labelled, tuple(names if images is None else images)).resolve()


@dataclass
class _Resolver:
    file: Path
    names: Sequence[str]
    values: Callable[[str], Sequence[str]]
    options: ReadOptions
    labelled: bool
    images: Sequence[str]

    def __post_init__(self) -> None:
        chosen = ((role, self._asked(role)) for role in self.options.columns)
        self.asked = {role: name for role, name in chosen if name is not None}

    def resolve(self) -> Columns:
        path = self.asked.get("path") or self._path()
        identifier = self.asked.get("id") or self._first("id", {path}) or path
        if not self.labelled:
            unused = [name for name in self.names if name not in {path, identifier}]
            note = f"Columns not used: {enumerated(unused, most=MOST_NAMED)}."
            return Columns(path, None, (), None, None, identifier, (note,) if unused else ())
        split = self._split()
        group = self.asked["group"] if "group" in self.asked else self._group()
        taken = {path, self.asked.get("id") or "", group or "", split.name if split else ""}
        label, one_hot = self._label(taken)
        if label is None and not one_hot:
            raise MissingColumn(self._nothing("label", taken), "label")
        columns = Columns(path, label, one_hot, split, group or None, identifier)
        self._check_unique([path, label or "", group or "", split.name if split else ""])
        return Columns(**{**vars(columns), "notes": tuple(self._notes(columns))})

    def _asked(self, role: str) -> str | None:
        """Column that the user chose for a role; "" for none, None where a lenient mapping has another table's."""
        text = self.options.columns[role]
        if not text or text in self.names:
            return text
        same = [name for name in self.names if squashed(name) == squashed(text)]
        if len(same) == 1:
            return same[0]
        if role == "split" and ":" in text and text.rpartition(":")[0] in self.names:
            return text
        if role == "label" and CLASSES_JOINED in text:
            missing = [part for part in text.split(CLASSES_JOINED) if part not in self.names]
            if not missing:
                return text
            text = missing[0]
        if self.options.lenient:
            return None
        near = get_close_matches(text, self.names, n=3, cutoff=0.5)
        hint = f" Did you mean {enumerated(near, 'or')}?" if near else ""
        shown = enumerated(self.names, most=MOST_NAMED)
        raise DataError(f"{self.file}: no column {text!r} for --columns {role}={text}.{hint} Its columns: {shown}.")

    def _free(self) -> list[str]:
        """Columns that the user gave no role."""
        return [name for name in self.names if name not in self.asked.values()]

    def _ranked(self, role: str, without: Iterable[str] = ()) -> list[str]:
        """Columns whose names are aliases of a role, in the order of the aliases."""
        free = [name for name in self._free() if name not in without]
        ranks = [(place, name) for name in free if (place := rank(name, ALIASES[role])) is not None]
        return [name for _, name in sorted(ranks, key=lambda pair: pair[0])]

    def _first(self, role: str, without: Iterable[str] = ()) -> str | None:
        return next(iter(self._ranked(role, without)), None)

    def _path(self) -> str:
        found = [name for name in self._ranked("path") if name in self.images]
        if not found:  # a bare `id` names images where nothing else does; their files have to be found
            found = [name for name in self._free() if squashed(name) == "id" and name in self.images]
        if not found and len(self.images) == 1 < len(self.names):  # the only column of images in a Parquet file
            found = list(self.images)
        if not found:
            raise MissingColumn(self._nothing("path", set()), "path")
        self._check_unique(found[:1])
        return found[0]

    def _label(self, taken: set[str]) -> tuple[str | None, tuple[str, ...]]:
        """Column of the labels, or the one-hot columns."""
        asked = self.asked.get("label")
        if asked and asked not in self.names:
            return None, tuple(asked.split(CLASSES_JOINED))
        if asked:
            return asked, ()
        found = self._ranked("label", taken)
        sure = [name for name in found if rank(name, ALIASES["label"][:2]) is not None]
        if sure:
            return sure[0], ()
        if len(found) > 1:
            raise DataError(
                f"{self.file}: {enumerated(found, 'or')} could be the label. Choose one: {self._option(label=found[0])}"
            )
        return (found[0], ()) if found else (None, self._one_hot(taken))

    def _one_hot(self, taken: set[str]) -> tuple[str, ...]:
        """All columns of zeros and ones, where each row has a single one; else none."""
        found: list[str] = []
        ones: list[int] = []
        for name in self._free():
            if name in taken or squashed(name) in FLAGS or len(found) > MOST_CLASSES:
                continue
            cells = [cell.strip().casefold() for cell in self.values(name)]
            if cells and set(cells) <= ONE | ZERO:
                found.append(name)
                ones = [n + (cell in ONE) for n, cell in zip(ones or [0] * len(cells), cells, strict=True)]
        return tuple(found) if len(found) > 1 and set(ones) == {1} else ()

    def _split(self) -> SplitRule | None:
        if "split" in self.asked:
            return self._asked_split(self.asked["split"]) if self.asked["split"] else None
        sure = [name for name in self._free() if squashed(name) == "split"]
        if sure:
            return SplitRule(sure[0])
        named = filter(may_be_split, self._free())
        rules = [rule for name in named if (rule := rule_by_values(name, self.values(name)))]
        if len(rules) > 1:
            names = [rule.name for rule in rules]
            raise DataError(
                f"{self.file}: {enumerated(names, 'or')} could be the split. Choose one: "
                f"{self._option(split=names[0])}; or none: {self._option(split='')}"
            )
        return rules[0] if rules else None

    def _asked_split(self, asked: str) -> SplitRule:
        """Rule for the column, or the column and its fold, that the user chose."""
        if asked in self.names:
            name, remedy = asked, "Say which of them validates; the others train"
            rule = asked_rule(name, self.values(name))
        else:
            name, _, fold = asked.rpartition(":")
            rule, remedy = fold_rule(name, fold, self.values(name)), f"No row has {fold!r}. Choose another"
        if rule is None:
            values = sorted(present(self.values(name)))
            raise DataError(
                f"{self.file}: the column {name} has the values {enumerated(values, most=10)}. {remedy}: "
                f"{self._option(split=f'{name}:{values[0] if values else 0}')}"
            )
        return rule

    def _group(self) -> str | None:
        """Column of the groups, if any value repeats: groups of one image each say nothing."""
        for name in self._ranked("group"):
            cells = [cell for cell in self.values(name) if cell.strip()]
            if squashed(name) == "group" or len(set(cells)) < len(cells):
                return name
        return None

    def _check_unique(self, used: Iterable[str]) -> None:
        for name in filter(None, used):
            if sum(other == name for other in self.names) > 1:
                raise DataError(f"{self.file}: line 1: the column {name} repeats. Rename one of them.")

    def _nothing(self, role: str, taken: set[str]) -> str:
        """Message for a table in which no column has a role that is needed, with what to type."""
        kind = {"path": "names of image files", "label": "labels"}[role]
        free = [name for name in self._free() if name not in taken and not INDEX.fullmatch(name)]
        choice = {role: _likely(role, free)}
        if role == "path" and self.labelled and "label" not in self.asked and not self._ranked("label"):
            choice["label"] = _likely("label", [name for name in free if name != choice["path"]])
        text = (
            f"{self.file}: line 1: no column of {kind}. Its columns: "
            f"{enumerated(self.names, most=MOST_NAMED) or 'none'}. Say which it is: {self._option(**choice)}"
        )
        if any(name.lower().endswith(tuple(image_suffixes())) for name in self.names):
            return f"{text}. If the file has no header, add the line path,label at its top."
        if role == "label" and len(flags := [name for name in free if self._is_flags(name)]) > 1:
            return f"{text}. One-hot columns need a single 1 in each row: {self._option(label='+'.join(flags[:10]))}"
        return text

    def _is_flags(self, name: str) -> bool:
        cells = {cell.strip().casefold() for cell in self.values(name)}
        return bool(cells) and cells <= ONE | ZERO

    def _option(self, **more: str) -> str:
        columns = {**self.options.columns, **more} if not self.options.lenient else more
        text = ",".join(f"{role}={columns[role]}" for role in ROLES if role in columns)
        return command_line(["--columns", text])

    def _notes(self, columns: Columns) -> Iterable[str]:
        names = {"path": columns.path, "label": columns.label, "group": columns.group}
        taken = {role: name for role, name in names.items() if name and squashed(name) not in {role, *PLAIN[role]}}
        if columns.split and (columns.split.name.casefold() != "split" or columns.split.flag or columns.split.fold):
            taken["split"] = str(columns.split)
        if columns.one_hot:
            taken["label"] = f"the one-hot columns {enumerated(columns.one_hot, most=10)}"
        if taken:
            yield f"Columns: {', '.join(f'{role} from {taken[role]}' for role in ROLES if role in taken)}."
        used = {*filter(None, names.values()), *columns.one_hot, columns.split.name if columns.split else ""}
        used.add(self.asked.get("id") or "")
        if unused := [name for name in self.names if name not in used and not INDEX.fullmatch(name)]:
            yield self._unused(unused, columns)

    def _unused(self, unused: Sequence[str], columns: Columns) -> str:
        """Note on columns that are not used, with what each might be and what to type."""
        open_roles = [role for role in ("split", "group") if not getattr(columns, role) and role not in self.asked]
        shown, use = [], dict[str, str]()
        for name in unused:
            might = [role for role in guesses(name) if role in open_roles]
            shown.append(f"{name} (perhaps the {might[0]})" if might else name)
            if might:
                use.setdefault(might[0], use_of(name, self.values(name)) if might[0] == "split" else name)
        text = f"Columns not used: {enumerated(shown, most=MOST_NAMED)}."
        return f"{text} To use one: {self._option(**use)}" if use else text


def _likely(role: str, names: Sequence[str]) -> str:
    """Column whose name sounds most like a role."""
    sounding = [name for name in names if role in guesses(name)]
    only = [name for name in sounding if guesses(name) == [role]]
    return next(iter([*only, *sounding, *names]), "COLUMN")
