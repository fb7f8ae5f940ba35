"""Prediction files of classification tasks: class probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from vlmed.errors import InputError
from vlmed.metrics.classification import Classified
from vlmed.results.columns import numbers, parse_table, schema_of, stored_texts, texts, write_table

_VECTOR = pa.list_(pa.float32())
SCHEMA = schema_of(target=pa.int32(), probabilities=_VECTOR, by_template=_VECTOR)


@dataclass(frozen=True, eq=False)
class ClassificationPredictions:
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

    def samples(self, rows: ArrayLike) -> dict[str, Classified]:
        """As `predictions.Predictions` says.

        Raises:
            InputError: A probability is not one, or a target is no class; names the row.
        """
        chosen = np.asarray(rows)
        return {"": Classified(self.probabilities[chosen], self.targets[chosen])}

    def claims(self, rows: ArrayLike) -> list[Any]:
        """The claimed targets of `rows`, as JSON."""
        return list(self.targets[np.asarray(rows)].tolist())


def write_classified(path: Path, predictions: ClassificationPredictions) -> None:
    """As `predictions.write_predictions`."""
    rows = len(predictions.sample_ids)
    columns = [
        texts(predictions.sample_ids),
        texts(predictions.groups),
        pa.array(predictions.targets, pa.int32()),
        _vectors(predictions.probabilities),
        _vectors(predictions.by_template.reshape(rows, -1)),
    ]
    write_table(path, columns, SCHEMA)


def parse_classified(
    content: bytes, path: Path, classes: int, most_rows: int | None = None
) -> ClassificationPredictions:
    """As `predictions.parse_predictions`, for a task with `classes` classes; refuses rows of another length, too."""
    table = parse_table(content, path, SCHEMA, most_rows)
    templates = _matrix(table, "by_template", path, classes, None)
    return ClassificationPredictions(
        sample_ids=stored_texts(table, "sample_id"),
        groups=stored_texts(table, "group"),
        targets=numbers(table, "target"),
        probabilities=_matrix(table, "probabilities", path, classes, classes),
        by_template=templates.reshape(len(templates), -1, classes) if len(templates) else np.empty((0, 0, classes)),
    )


def _vectors(matrix: NDArray[np.float64]) -> pa.Array:
    rows, width = matrix.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(matrix.astype(np.float32).ravel()), type=_VECTOR)


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
