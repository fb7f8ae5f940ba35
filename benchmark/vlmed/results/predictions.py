"""Prediction files: one row per test sample, keyed by id, from which every score is recomputed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import ArrayLike

from vlmed.files import read_bytes
from vlmed.metrics.table import Samples
from vlmed.results.answered import AnswerPredictions, parse_answered, write_answered
from vlmed.results.classified import ClassificationPredictions, parse_classified, write_classified
from vlmed.results.columns import LARGEST_FILE
from vlmed.results.ranked import Found, RetrievalPredictions, parse_ranked, write_ranked
from vlmed.suite.types import Task

__all__ = [
    "AnswerPredictions",
    "ClassificationPredictions",
    "Found",
    "Predictions",
    "RetrievalPredictions",
    "parse_predictions",
    "read_predictions",
    "write_predictions",
]


class Predictions(Protocol):
    """The predictions of one unit: `ClassificationPredictions`, `RetrievalPredictions` or `AnswerPredictions`."""

    @property
    def sample_ids(self) -> Sequence[str]:
        """N ids."""
        ...

    @property
    def groups(self) -> Sequence[str]:
        """N group names, by which intervals are drawn."""
        ...

    def samples(self, rows: ArrayLike) -> Mapping[str, Samples]:
        """What is scored of `rows`, indices or a mask (N,).

        Keyed by what the names of the metrics in `scores` begin with; the empty text keys what the task's metrics are
        about.
        """
        ...

    def claims(self, rows: ArrayLike) -> list[Any]:
        """What `rows` claim of their samples, as JSON: models that claim the same can be compared."""
        ...


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write a prediction file in one step; equal predictions give equal bytes with equal pyarrow versions.

    Raises:
        InputError: A closed question lacks its target among its candidates.
        VlmedError: The disk is full.
    """
    if isinstance(predictions, ClassificationPredictions):
        write_classified(path, predictions)
    elif isinstance(predictions, RetrievalPredictions):
        write_ranked(path, predictions)
    elif isinstance(predictions, AnswerPredictions):
        write_answered(path, predictions)
    else:
        raise TypeError(f"no prediction file holds a {type(predictions).__name__}")


def read_predictions(path: Path, task: Task) -> Predictions:
    """Read a prediction file of a task. Says nothing of whether its numbers are true.

    Raises:
        MissingError: The file is not there.
        InputError: As `parse_predictions`, or it is longer than any prediction file.
    """
    return parse_predictions(read_bytes(path, LARGEST_FILE), path, task)


def parse_predictions(content: bytes, path: Path, task: Task, most_rows: int | None = None) -> Predictions:
    """The predictions in the bytes of a file, which errors call `path`.

    Args:
        most_rows: Samples of the task's frozen test set, beyond which a file is refused before any row is decoded;
            2**20 where nobody has frozen one. Fewer are read, for whoever names those that are missing.

    Raises:
        InputError: It is no Parquet file, has other columns or types than the task's kind, or nulls, or unfolds to
            more than the largest task needs.
    """
    if task.kind == "retrieval":
        return parse_ranked(content, path, most_rows)
    if task.kind == "vqa":
        return parse_answered(content, path, most_rows)
    return parse_classified(content, path, len(task.classes), most_rows)
