"""Thrift's compact protocol, as far as Parquet's footer and page headers use it.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_STRUCT = 12


@dataclass
class Compact:
    """Reads a Thrift struct in the compact protocol from bytes of which nothing is believed.

    Attributes:
        content: What the struct lies in.
        place: Where the next byte is read.
        end: Where reading stops.
    """

    content: bytes
    place: int
    end: int
    _depth: int = field(default=0, init=False)

    def struct(self) -> dict[int, Any]:
        """Field number -> value, nested structs likewise; texts are passed over and None.

        Raises:
            ValueError: It ends too early, nests too deeply, names a field twice or holds a number without an end.
            KeyError: It has a value of a kind that Parquet never uses.
        """
        self._depth += 1
        if self._depth > 8:
            raise ValueError("its header nests too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            if number in fields:
                raise ValueError(f"its header names field {number} twice")
            fields[number] = self._value(head & 15)
        self._depth -= 1
        return fields

    def _value(self, kind: int) -> Any:
        if kind in (1, 2):
            return kind == 1
        if kind == _STRUCT:
            return self.struct()
        readers: Mapping[int, Callable[[], Any]] = {
            3: self._byte, 4: self._integer, 5: self._integer, 6: self._integer, 7: self._double, 8: self._binary,
            9: self._list, 10: self._list,
        }  # fmt: skip
        return readers[kind]()

    def _list(self) -> list[Any]:
        head = self._byte()
        kind, count = head & 15, head >> 4
        if count == 15:
            count = self._varint()
        # A truth value in a list takes a byte, and not the field's own head.
        return [self._byte() if kind in (1, 2) else self._value(kind) for _ in range(count)]

    def _byte(self) -> int:
        if self.place >= self.end:
            raise ValueError("its header is cut off")
        self.place += 1
        return self.content[self.place - 1]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("its header holds a number without an end")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _double(self) -> None:
        self.place += 8

    def _binary(self) -> None:
        length = self._varint()  # moves the place itself
        self.place += length
