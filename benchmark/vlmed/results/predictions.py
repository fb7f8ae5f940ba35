"""Prediction files: one row per test sample, keyed by id, from which every score is recomputed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vlmed.errors import InputError, MissingError
from vlmed.files import new_file

_VECTOR = pa.list_(pa.float32())
SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("target", pa.int32(), nullable=False),
        pa.field("probabilities", _VECTOR, nullable=False),
        pa.field("by_template", _VECTOR, nullable=False),
    ]
)
_MAX_ROWS = 2_000_000


@dataclass(frozen=True)
class Predictions:
    """Class probabilities of one unit, in sample id order.

    Attributes:
        sample_ids: N ids.
        groups: N group names, by which intervals are drawn.
        targets: (N,) int64, the claimed class indices.
        probabilities: (N, C) float64 in [0, 1], rows sum to 1; float32 precision.
        by_template: (N, T, C) float64, the same from each single prompt template; T is 0 without prompts.
    """

    sample_ids: Sequence[str]
    groups: Sequence[str]
    targets: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    by_template: NDArray[np.float64]


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write a prediction file in one step; equal predictions give equal bytes with equal pyarrow versions.

    Raises:
        VlmedError: The disk is full.
    """
    rows = len(predictions.sample_ids)
    columns = [
        pa.array(predictions.sample_ids, pa.string()),
        pa.array(predictions.groups, pa.string()),
        pa.array(predictions.targets, pa.int32()),
        _vectors(predictions.probabilities),
        _vectors(predictions.by_template.reshape(rows, -1)),
    ]
    with new_file(path) as part:
        pq.write_table(pa.Table.from_arrays(columns, schema=SCHEMA), part, compression="zstd")


def read_predictions(path: Path, classes: int) -> Predictions:
    """Read a prediction file of a task with `classes` classes. Says nothing of whether its numbers are true.

    Raises:
        MissingError: The file is not there.
        InputError: It is no Parquet file, has other columns or types, nulls, or rows of another length.
    """
    table = _read_table(path)
    if table.schema != SCHEMA:
        raise InputError("wrong columns", file=path, expected=_describe(SCHEMA), got=_describe(table.schema))
    for name in SCHEMA.names:
        if table[name].null_count:
            raise InputError(f"column {name!r} has nulls", file=path, expected="a value in every row")
    templates = _matrix(table, "by_template", path, classes, None)
    return Predictions(
        sample_ids=table["sample_id"].to_pylist(),
        groups=table["group"].to_pylist(),
        targets=table["target"].to_numpy().astype(np.int64),
        probabilities=_matrix(table, "probabilities", path, classes, classes),
        by_template=templates.reshape(len(templates), -1, classes) if len(templates) else np.empty((0, 0, classes)),
    )


def _vectors(matrix: NDArray[np.float64]) -> pa.Array:
    rows, width = matrix.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(matrix.astype(np.float32).ravel()), type=_VECTOR)


def _read_table(path: Path) -> pa.Table:
    try:
        file = pq.ParquetFile(path)
        rows = file.metadata.num_rows
        if rows > _MAX_ROWS:
            raise InputError("too many rows", file=path, expected=f"at most {_MAX_ROWS}", got=str(rows))
        return file.read()
    except FileNotFoundError:
        raise MissingError("there is no such prediction file", file=path) from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"this is not a readable Parquet file: {error}", file=path) from None


def _matrix(table: pa.Table, name: str, path: Path, multiple: int, width: int | None) -> NDArray[np.float64]:
    column = table[name].combine_chunks()
    lengths = np.diff(column.offsets.to_numpy())
    width = width if width is not None else int(lengths[0]) if len(lengths) else 0
    wrong = np.flatnonzero((lengths != width) | (lengths % multiple != 0))
    if len(wrong):
        row = int(wrong[0])
        expected = f"{width} numbers, a multiple of {multiple}"
        what, got = f"column {name!r} has a row of another length", str(lengths[row])
        raise InputError(what, file=path, path=f"row {row}", expected=expected, got=got)
    values = column.flatten()
    if values.null_count:
        raise InputError(f"column {name!r} has nulls inside", file=path, expected="a number everywhere")
    matrix: NDArray[np.float64] = values.to_numpy(zero_copy_only=False).astype(np.float64)
    return matrix.reshape(len(lengths), width)


def _describe(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}{'' if field.nullable else ' not null'}" for field in schema)
