"""What all prediction files share: Parquet with exactly the columns of its kind, no nulls but where a kind has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vlmed.errors import InputError, Problem
from vlmed.files import new_file
from vlmed.results.pages import check_footer, check_pages
from vlmed.suite.texts import Texts

LARGEST_FILE = 64 * 2**20
# Rows of a file whose task has no frozen test set to tell their number.
_MOST_ROWS = 2**20
# Rows that are written, and so read and unfolded, together.
_GROUP_ROWS = 2**16
_LONGEST_TEXT = 20_000
_MOST_TEXT = 64 * 2**20
_IDENTITY = (pa.field("sample_id", pa.string(), nullable=False), pa.field("group", pa.string(), nullable=False))


def schema_of(**columns: pa.DataType) -> pa.Schema:
    """The schema of a kind of prediction file: `sample_id` and `group`, then `columns`, none of which may be null."""
    return pa.schema([*_IDENTITY, *(pa.field(name, kind, nullable=False) for name, kind in columns.items())])


def write_table(path: Path, columns: Sequence[pa.Array], schema: pa.Schema) -> None:
    """Write a prediction file in one step; equal columns give equal bytes with equal pyarrow versions.

    Raises:
        VlmedError: The disk is full.
    """
    with new_file(path) as part:
        table = pa.Table.from_arrays(columns, schema=schema)
        pq.write_table(table, part, compression="zstd", row_group_size=_GROUP_ROWS)


def parse_table(content: bytes, path: Path, schema: pa.Schema, most_rows: int | None = None) -> pa.Table:
    """The table of a prediction file that was read from `path` and has exactly the columns of `schema`.

    Nothing that the file declares is believed: what it unfolds to is added up before it is read.

    Args:
        most_rows: Samples of the frozen test set. A file that declares more rows is refused before any is decoded.

    Raises:
        InputError: It is no Parquet file, has other columns or types, nulls where there may be none, texts that are
            no UTF-8, or unfolds to more than the largest task needs.
    """
    try:
        table = _read(content, path, schema, _MOST_ROWS if most_rows is None else most_rows)
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        raise InputError(f"this is not a readable Parquet file: {error}", file=path) from None
    problems = [
        Problem(f"column {field.name!r} has nulls", str(path), expected="a value in every row")
        for field in schema
        if not field.nullable and table[field.name].null_count
    ]
    if problems:
        raise InputError(problems)
    return table


def numbers(table: pa.Table, name: str) -> NDArray[np.int64]:
    """A column of integers, (N,)."""
    column: NDArray[np.int64] = table[name].to_numpy().astype(np.int64)
    return column


def texts(values: Iterable[str]) -> pa.Array:
    """A column of texts."""
    return Texts.of(values).array


def stored_texts(table: pa.Table, name: str) -> Texts:
    """A column of texts, (N,)."""
    return Texts(table[name].combine_chunks())


def lists(table: pa.Table, name: str, path: Path) -> list[tuple[str, ...]]:
    """A column of lists of texts, (N,).

    Raises:
        InputError: A list holds a null; lists every row.
    """
    column = table[name].combine_chunks()
    # The same few texts stand in many lists, so each is made once.
    folded = column.values.dictionary_encode(null_encoding="encode")
    words = np.array(folded.dictionary.to_pylist(), object)
    held = words[folded.indices.to_numpy()].tolist()
    rows = [tuple(held[start:end]) for start, end in pairwise(column.offsets.to_pylist())]
    problems = [
        Problem(f"column {name!r} has a null inside", str(path), f"row {row}", "texts alone")
        for row, values in enumerate(rows if None in words else ())
        if None in values
    ]
    if problems:
        raise InputError(problems)
    return rows


def _read(content: bytes, path: Path, schema: pa.Schema, most_rows: int) -> pa.Table:
    check_footer(content, path)
    claimed = pq.ParquetFile(pa.BufferReader(content))
    if claimed.schema_arrow != schema:
        raise InputError("wrong columns", file=path, expected=_describe(schema), got=_describe(claimed.schema_arrow))
    if (rows := claimed.metadata.num_rows) > most_rows:
        raise InputError("too many rows", file=path, expected=f"at most {most_rows}", got=str(rows))
    check_pages(content, claimed.metadata, path)
    leaves = [claimed.metadata.schema.column(index) for index in range(claimed.metadata.num_columns)]
    names = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    # Texts stay in their dictionaries: one long text in a million rows takes its own length until it is known.
    file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=names)
    groups, text = [schema.empty_table()], 0
    for index in range(claimed.metadata.num_row_groups):
        folded = file.read_row_group(index, use_threads=False)
        folded.validate(full=True)
        text += _text_length(folded, path)
        if text > _MOST_TEXT:
            raise InputError("too much text", file=path, expected=f"at most {_MOST_TEXT} bytes", got=f"{text} and more")
        groups.append(folded.cast(schema))
    return pa.concat_tables(groups)


def _text_length(folded: pa.Table, path: Path) -> int:
    """Bytes that the texts of a table take unfolded; refuses one that is too long."""
    total = 0
    for name in folded.column_names:
        for chunk in folded[name].chunks:
            values = chunk.flatten() if pa.types.is_list(chunk.type) else chunk
            if pa.types.is_dictionary(values.type):
                lengths = pc.binary_length(values.dictionary)
                _check_longest(name, pc.max(lengths).as_py() or 0, path)
                total += pc.sum(lengths.take(values.indices)).as_py() or 0
    return total


def _check_longest(name: str, longest: int, path: Path) -> None:
    if longest > _LONGEST_TEXT:
        expected = f"at most {_LONGEST_TEXT} bytes"
        raise InputError(f"column {name!r} has a text too long", file=path, expected=expected, got=str(longest))


def _describe(schema: pa.Schema) -> str:
    fields = list(schema)[:20]
    shown = ", ".join(f"{field.name}: {field.type}{'' if field.nullable else ' not null'}" for field in fields)
    return shown[:500] + (f" and more of {len(schema)}" if len(schema) > 20 else "")
