"""What a Parquet file really unfolds to, read from the headers of its pages before any page is opened.

The footer's counts and sizes are claims: readers allocate by the pages' own headers. A few bytes may declare gigabytes
(compression, runs of one value, prefixes that repeat), so that all headers are added up first. Page headers are
Thrift structs in the compact protocol; https://parquet.apache.org/docs/file-format/data-pages/ lists their fields.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from vlmed.errors import InputError

# Numbers take some twenty bytes each until they are scored, texts some hundred.
_MOST = {"pages": 50_000, "bytes": 128 * 2**20, "texts": 4_000_000, "numbers": 12_000_000}
_LONGEST_FOOTER = 2**20
# Page types whose values are counted, each with the field of its header and, there, of its encoding.
_DATA = {0: (5, 2), 3: (8, 4)}
_DICTIONARY = 2
# PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY; others repeat prefixes or pack numbers, and no writer of ours uses them.
_ENCODINGS = {0, 2, 3, 8}
_STRUCT = 12


def check_footer(content: bytes, path: Path) -> None:
    """See that a Parquet file has a footer of modest length; a reader parses all of it to open the file.

    Raises:
        InputError: It has none, or one of a megabyte and more.
    """
    if len(content) < 12 or content[-4:] != b"PAR1" or content[:4] != b"PAR1":
        raise InputError("this is not a readable Parquet file: it has no footer", file=path)
    (length,) = struct.unpack("<I", content[-8:-4])
    if length > _LONGEST_FOOTER:
        expected = f"at most {_LONGEST_FOOTER} bytes"
        raise InputError("the Parquet footer is too long", file=path, expected=expected, got=str(length))


def check_pages(content: bytes, metadata: Any, path: Path) -> None:
    """See that all pages together unfold to what fits in memory.

    Args:
        content: The whole file.
        metadata: Its `pyarrow.parquet.FileMetaData`.

    Raises:
        InputError: A page lies outside, is damaged, encrypted or of an encoding that unfolds without bound, or all
            together declare too much.
    """
    total = _Total()
    for group, column in _chunks(metadata):
        chunk = metadata.row_group(group).column(column)
        where = f"row group {group}, column {chunk.path_in_schema!r}"
        try:
            for page in _pages(content, chunk):
                total.add(page, text=chunk.physical_type == "BYTE_ARRAY")
        except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
            what = f"a Parquet page is refused: {error}"
            raise InputError(what, file=path, path=where, hint="write the file with vlmed") from None


@dataclass(frozen=True)
class _Page:
    size: int
    values: int
    encoding: int


@dataclass
class _Total:
    """What the pages so far declare."""

    pages: int = 0
    bytes: int = 0
    texts: int = 0
    numbers: int = 0

    def add(self, page: _Page, text: bool) -> None:
        """Count a page in.

        Raises:
            ValueError: It is of another encoding, or all together are too much.
        """
        if page.encoding not in _ENCODINGS:
            raise ValueError(f"encoding {page.encoding} is none of {sorted(_ENCODINGS)}")
        self.pages += 1
        self.bytes += page.size
        self.texts += page.values if text else 0
        self.numbers += 0 if text else page.values
        for name, most in _MOST.items():
            if (got := getattr(self, name)) > most:
                raise ValueError(f"the pages declare {got} {name}, at most {most} are read")


def _chunks(metadata: pq.FileMetaData) -> Iterator[tuple[int, int]]:
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            # Arrow opens no page of a chunk without values, wherever its pages are said to lie.
            if metadata.row_group(group).column(column).num_values:
                yield group, column


def _pages(content: bytes, chunk: Any) -> Iterator[_Page]:
    """The pages of a column chunk, found as Arrow finds them."""
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
        start = chunk.dictionary_page_offset
    end = start + chunk.total_compressed_size
    if not 4 <= start <= end <= len(content):
        raise ValueError(f"it lies outside the file, at bytes {start} to {end}")
    while start < end:
        reader = _Compact(content, start, end)
        header = reader.struct()
        size, stored = header[2], header[3]
        if size < 0 or not 0 <= stored <= end - reader.place:
            raise ValueError(f"it claims {stored} bytes that unfold to {size}")
        yield _page(header, size)
        start = reader.place + stored


def _page(header: Mapping[int, Any], size: int) -> _Page:
    if header[1] == _DICTIONARY:
        return _Page(size, header[7][1], header[7][2])
    if header[1] not in _DATA:
        raise ValueError(f"type {header[1]} is no page of data")
    place, encoding = _DATA[header[1]]
    values = header[place][1]
    if values < 0:
        raise ValueError(f"it claims {values} values")
    return _Page(size, values, header[place][encoding])


@dataclass
class _Compact:
    """Reads one Thrift struct in the compact protocol; field number -> value, nested structs likewise."""

    content: bytes
    place: int
    end: int
    _depth: int = field(default=0, init=False)

    def struct(self) -> dict[int, Any]:
        self._depth += 1
        if self._depth > 8:
            raise ValueError("its header nests too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            fields[number] = self._value(head & 15)
        self._depth -= 1
        return fields

    def _value(self, kind: int) -> Any:
        if kind in (1, 2):
            return kind == 1
        if kind == _STRUCT:
            return self.struct()
        readers: Mapping[int, Callable[[], Any]] = {
            3: self._byte, 4: self._integer, 5: self._integer, 6: self._integer, 7: self._double, 8: self._binary
        }  # fmt: skip
        return readers[kind]()

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
