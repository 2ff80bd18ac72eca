"""Reader of Thrift's compact protocol, in which the footer and the page headers of a Parquet file are written.

Nothing in the bytes makes it read past their end, loop without reading, or make a number of more than 64 bits.
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from typing import Union

_MOST_DEPTH = 16
_VARINT_BITS = 70  # ten bytes of seven bits hold 64

Value = Union[int, bytes, list["Value"], "Struct"]


class Struct(dict[int, Value]):
    """Fields of a struct by their number."""

    def integer(self, number: int, default: int | None = None) -> int:
        """Field that is an integer.

        Raises:
            ValueError: it is absent, without a default, or of another type.
        """
        value = self.get(number, default)
        if not isinstance(value, int):
            raise ValueError(f"field {number} is no integer")
        return value

    def structs(self, number: int) -> list["Struct"]:
        """Field that is a list of structs.

        Raises:
            ValueError: it is absent or of another type.
        """
        values = self.get(number)
        found = [value for value in values if isinstance(value, Struct)] if isinstance(values, list) else []
        if not isinstance(values, list) or len(found) != len(values):
            raise ValueError(f"field {number} is no list of structs")
        return found

    def struct(self, number: int) -> "Struct":
        """Field that is a struct; an empty one if it is absent or of another type."""
        value = self.get(number)
        return value if isinstance(value, Struct) else Struct()


class CompactReader:
    """Reader of the structs in some bytes; `place` is that of the next byte."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def struct(self, depth: int = 0) -> Struct:
        """Next struct.

        Raises:
            ValueError: there is none.
        """
        if depth > _MOST_DEPTH:
            raise ValueError("structs are nested too deeply")
        fields = Struct()
        number = 0
        while (byte := self._byte()) != 0:
            step, kind = byte >> 4, byte & 0x0F
            number = number + step if step else self._integer()
            fields[number] = int(kind == 1) if kind in (1, 2) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Value:
        if kind in (1, 2, 3):  # true, false, and a byte
            return self._byte()
        if kind in (4, 5, 6):
            return self._integer()
        if kind == 7:  # double
            return self._bytes(8)
        if kind == 8:
            return self._bytes(self._varint())
        if kind in (9, 10):
            return self._list(depth)
        if kind == 12:
            return self.struct(depth + 1)
        raise ValueError(f"type {kind} is not one of a Parquet file")

    def _list(self, depth: int) -> Value:
        head = self._byte()
        count = head >> 4 if head >> 4 != 15 else self._varint()
        if depth > _MOST_DEPTH or count > len(self.data) - self.place:  # each value takes at least a byte
            raise ValueError(f"a list of {count:,} values ends early")
        return [self._value(head & 0x0F, depth + 1) for _ in range(count)]

    def _bytes(self, count: int) -> bytes:
        if count > len(self.data) - self.place:
            raise ValueError(f"a value of {count:,} bytes ends early")
        self.place += count
        return self.data[self.place - count : self.place]

    def _byte(self) -> int:
        if self.place >= len(self.data):
            raise ValueError("a struct ends early")
        self.place += 1
        return self.data[self.place - 1]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, _VARINT_BITS, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("a number is too long")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
