"""JSON files of ours as typed, frozen values: one model and one schema number for each kind, written and read here.

A file that cannot be read back as its model (cut off, of another shape or schema, nested without end) is one
`RecordError` that names it.
"""

import json
import math
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, NoReturn, Self

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from loupe.errors import RunStateError
from loupe.files import write_atomic

MOST_BYTES = 2**28  # of a file
MOST_VALUES = 5_000_000  # in it; each takes some 100 bytes
MOST_LEVELS = 50  # of nesting; no file of ours has more than ten


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("input should be a valid string")
    return value


Whole = Annotated[int, Field(ge=0, lt=2**63)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Quantity = Annotated[float, Field(ge=0, lt=1e12)]  # finite, and no more than a figure can be drawn of
Seconds = Quantity
OsText = Annotated[str, PlainValidator(_text)]  # a name in a file system: bytes that are not UTF-8 are surrogates in it


class RecordError(RunStateError):
    """A file of ours that cannot be read back: `path` names it, `reason` says why."""

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        super().__init__(f"{path}: {reason}. {remedy}")
        self.path = path
        self.reason = reason


class Part(BaseModel):
    """A value inside a record. Keys that a later version added are kept as they are.

    A default stands for a key that older files do not have. Keys left out stay out when a record is written again.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False, populate_by_name=True)

    def to_json(self) -> dict[str, Any]:
        """The value as plain data: the keys that it was made with."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Record(Part):
    """A whole file. A subclass sets `SCHEMA`, which changes when the meaning of a key does.

    Attributes:
        REMEDY: what to do where a file of this kind cannot be read, as a whole sentence.
    """

    SCHEMA: ClassVar[int]
    REMEDY: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """The record as plain data, the schema number first."""
        return {"schema": self.SCHEMA, **super().to_json()}

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
            if path.stat().st_size > MOST_BYTES:
                raise RecordError(path, f"larger than {MOST_BYTES // 2**20} MiB", cls.REMEDY)
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecordError(path, f"cannot be read ({_reason(error)})", cls.REMEDY) from None
        try:
            content = parse(text)
        except ValueError as error:
            raise RecordError(path, f"not JSON ({_reason(error)})", cls.REMEDY) from None
        return cls.of(content, path)

    @classmethod
    def read_if_there(cls, path: Path) -> Self | None:
        """The record in a file; None where there is no such file.

        Raises:
            RecordError: it cannot be read as a record of this kind.
        """
        return cls.read(path) if path.is_file() else None

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


class CheckedRecord(Record):
    """A record with a checksum of its other keys. One without it, of an earlier version, is refused as damaged."""

    def to_json(self) -> dict[str, Any]:
        """The record as plain data, the checksum last."""
        content = super().to_json()
        return {**content, "crc32": _checksum(content)}

    @classmethod
    def of(cls, content: Any, path: Path) -> Self:
        """As for any record; another checksum or none is refused too."""
        if isinstance(content, dict):
            if "crc32" not in content:
                raise RecordError(path, "no checksum", cls.REMEDY)
            content = dict(content)
            if content.pop("crc32") != _checksum(content):
                raise RecordError(path, "another checksum than its own", cls.REMEDY)
        return super().of(content, path)


def _checksum(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


class TextRecord(Record):
    """A record that is shown to people: each text in its file can be written as UTF-8."""

    @classmethod
    def of(cls, content: Any, path: Path) -> Self:
        """As for any record; half of a pair of surrogates is refused too."""
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except (UnicodeEncodeError, RecursionError) as error:
            raise RecordError(path, f"incomplete or damaged ({_reason(error)})", cls.REMEDY) from None
        return super().of(content, path)


def parse(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: the text is not JSON, or holds NaN or infinity, or is nested deeper than any file of ours.
    """
    values = sum(map(text.count, ",[{")) if isinstance(text, str) else sum(map(text.count, b",[{"))
    if values > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES:,} values")
    try:
        content = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [content]
    for _ in range(MOST_LEVELS):
        level = [inner for outer in level for inner in _inside(outer) if isinstance(inner, dict | list)]
        if not level:
            return content
    raise ValueError("nested too deeply")


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


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
