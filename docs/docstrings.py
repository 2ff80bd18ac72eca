"""Docstrings as the reference of Python reads them: an entry `low, high: ...` stands for each of its names."""

import re

import griffe

ENTRY = re.compile(r"^( {4})(\w+(?:, \*{0,2}\w+)+): (.*(?:\n {8}.*)*)", re.MULTILINE)


class OneEntryForEachName(griffe.Extension):
    """Division of entries for several parameters or attributes."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Divide the entries of a docstring."""
        if obj.docstring:
            text = griffe.Docstring(obj.docstring.value).value
            obj.docstring.value = ENTRY.sub(self._divided, text)

    @staticmethod
    def _divided(entry: re.Match[str]) -> str:
        margin, names, meaning = entry.groups()
        return "\n".join(f"{margin}{name}: {meaning}" for name in names.split(", "))
