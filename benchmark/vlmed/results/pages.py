"""What a Parquet file really unfolds to, read from the headers of its pages before any page is opened.

The footer's counts and sizes are claims: readers allocate by the pages' own headers. A few bytes may declare gigabytes
(compression, runs of one value, prefixes that repeat), so that all headers are added up first. Page headers are
Thrift structs in the compact protocol; https://parquet.apache.org/docs/file-format/data-pages/ lists their fields.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from vlmed.errors import InputError
from vlmed.results.thrift import Compact

# Numbers take some twenty bytes each until they are scored, so that the most take 320 MiB; texts take some hundred.
# Probabilities hardly compress: whoever declares more numbers than `columns.LARGEST_FILE` holds at four bytes each is
# no honest writer. A million samples of twelve classes are 13 million.
_MOST = {"pages": 50_000, "bytes": 128 * 2**20, "texts": 4_000_000, "numbers": 2**24}
_LONGEST_FOOTER = 2**20
# Page types whose values are counted, each with the field of its header and, there, of its encoding.
_DATA = {0: (5, 2), 3: (8, 4)}
_DICTIONARY = 2
# Fields of the footer, of a row group, of a column chunk and of its metadata.
_ROW_GROUPS, _COLUMNS, _META, _SIZES = 4, 1, 3, 16
# PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY; others repeat prefixes or pack numbers, and no writer of ours uses them.
_ENCODINGS = {0, 2, 3, 8}


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
    _check_histograms(content, metadata, path)
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


def _check_histograms(content: bytes, metadata: pq.FileMetaData, path: Path) -> None:
    """See that the footer's histograms of levels have as many entries as there are levels.

    Where they don't, pyarrow ends the whole process as soon as it is asked for the chunk. A field of another type than
    the format's, which Arrow would pass over, is refused here too.
    """
    (length,) = struct.unpack("<I", content[-8:-4])
    try:
        footer = Compact(content, len(content) - 8 - length, len(content) - 8).struct()
        for group in footer[_ROW_GROUPS]:
            for index, chunk in enumerate(group[_COLUMNS]):
                _check_levels(chunk[_META].get(_SIZES, {}), metadata.schema.column(index))
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        what = f"the Parquet footer is refused: {error}"
        raise InputError(what, file=path, hint="write the file with vlmed") from None


def _check_levels(sizes: Mapping[int, Any], column: Any) -> None:
    if 1 in sizes and column.physical_type != "BYTE_ARRAY":
        raise ValueError(f"column {column.path!r} claims a length of texts")
    for place, levels in ((2, column.max_repetition_level), (3, column.max_definition_level)):
        if sizes.get(place) and len(sizes[place]) != levels + 1:
            raise ValueError(f"column {column.path!r} has {len(sizes[place])} entries for {levels + 1} levels")


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
        reader = Compact(content, start, end)
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
