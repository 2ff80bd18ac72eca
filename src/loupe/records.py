"""JSON files of ours as typed, frozen values: one model and one schema number for each kind, written and read here.

A file that cannot be read back as its model (cut off, of another shape or schema, nested without end) is one
`RecordError` that names it.
"""

import json
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from loupe.errors import LoupeError
from loupe.files import write_atomic


class RecordError(LoupeError):
    """A file of ours that cannot be read back: `path` names it, `reason` says why."""

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        super().__init__(f"{path}: {reason}. {remedy}")
        self.path = path
        self.reason = reason


class Part(BaseModel):
    """A value inside a record. Keys that a later version added are kept as they are."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False, populate_by_name=True)


class Record(Part):
    """A whole file. A subclass sets `SCHEMA`, which changes when the meaning of a key does.

    Attributes:
        REMEDY: what to do where a file of this kind cannot be read, as a whole sentence.
    """

    SCHEMA: ClassVar[int]
    REMEDY: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """The record as plain data, the schema number first."""
        return {"schema": self.SCHEMA, **self.model_dump(mode="json", by_alias=True)}

    def write(self, path: Path) -> None:
        """Replaces the file at `path` whole."""
        write_atomic(path, json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in a file.

        Raises:
            RecordError: there is no such file, or it cannot be read as a record of this kind.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecordError(path, f"cannot be read ({_reason(error)})", cls.REMEDY) from None
        try:
            content = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise RecordError(path, f"not JSON ({_reason(error)})", cls.REMEDY) from None
        return cls.of(content, path)

    @classmethod
    def of(cls, content: Any, path: Path) -> Self:
        """The record in plain data that came from `path`.

        Raises:
            RecordError: it has another shape or schema.
        """
        if not isinstance(content, dict):
            raise RecordError(path, f"expected an object with keys, found {type(content).__name__}", cls.REMEDY)
        found = content.get("schema", cls.SCHEMA)
        if found != cls.SCHEMA:
            raise RecordError(path, f"schema {found!r}, and this version of Loupe reads {cls.SCHEMA}", cls.REMEDY)
        try:
            return cls.model_validate({key: value for key, value in content.items() if key != "schema"})
        except (ValidationError, RecursionError) as error:
            raise RecordError(path, f"incomplete or damaged ({_reason(error)})", cls.REMEDY) from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number in JSON")


def _reason(error: Exception) -> str:
    """The first thing that is wrong, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg'].lower()}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)
